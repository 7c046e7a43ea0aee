"""transformers' VJEPA2Model with random weights agrees with ours, through the parameter map."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from echojepa_jax.models.vit import SIZES, EncoderShape
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import PredictorShape, expected_shapes
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.vjepa2 import (
    from_hugging_face,
    from_torch,
    predictor_rows,
    rows_of,
    to_hugging_face,
    to_torch,
)

pytestmark = pytest.mark.slow


def make_theirs(**settings):
    torch.manual_seed(0)
    # Random numbers of our own: theirs take longer, and leave biases at 0 and norms at 1, so that
    # nothing there would be tested.
    with torch.device("meta"):
        model = VJEPA2Model(VJEPA2Config(**settings)).eval()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.03)
        # Training with one clip length uses token 0; their forward pass takes token 1.
        tokens = model.predictor.embeddings.mask_tokens
        tokens[1] = tokens[0]
    return model


def arrays_of(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_same(found, wanted):
    """The same names with the same arrays."""
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def make_ours(theirs, folder):
    theirs.save_pretrained(folder)
    weights = read_weights(folder)
    return weights.make_encoder(), weights.make_predictor(), weights.params


def run_theirs(model, clips, context_ids, target_ids):
    """Their layers in the order of the training step: context tokens only through the encoder."""
    with torch.no_grad():
        pixels = torch.from_numpy(clips).permute(0, 1, 4, 2, 3)
        context, target = torch.from_numpy(context_ids), torch.from_numpy(target_ids)
        tokens = model.encoder.embeddings(pixels)
        full = tokens
        for layer in model.encoder.layer:
            full = layer(full)[0]
        full = model.encoder.layernorm(full)
        index = context[..., None].expand(-1, -1, tokens.shape[-1])
        seen = torch.gather(tokens, 1, index)
        for layer in model.encoder.layer:
            seen = layer(seen, position_mask=context)[0]
        seen = model.encoder.layernorm(seen)
        buffer = torch.zeros_like(tokens).scatter(1, index, seen)
        predicted = model.predictor(buffer, [context], [target]).last_hidden_state
    return full.numpy(), seen.numpy(), predicted.numpy()


def compare(theirs, folder, clips, context_ids, target_ids, close):
    encoder, predictor, params = make_ours(theirs, folder)
    full, seen, predicted = run_theirs(theirs, clips, context_ids, target_ids)
    encode, predict = jax.jit(encoder.apply), jax.jit(predictor.apply, static_argnums=4)
    close(encode({"params": params["encoder"]}, clips), full)
    mine = encode({"params": params["encoder"]}, clips, context_ids)
    close(mine, seen)
    grid = encoder.grid(*clips.shape[1:4])
    (out,) = predict({"params": params["predictor"]}, mine, [context_ids], [target_ids], grid)
    close(out, predicted)


TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "crop_size": 32,
    "frames_per_clip": 8,
    "patch_size": 8,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
}


def random_ids(rng, batch, count, context, target):
    rows = [rng.permutation(count)[: context + target] for _ in range(batch)]
    parts = [(np.sort(row[:context]), np.sort(row[context:])) for row in rows]
    return np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts])


def test_parity_with_transformers_tiny(tmp_path):
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((2, 8, 32, 32, 3)).astype(np.float32)
    ids = random_ids(rng, 2, 64, 16, 24)
    close = partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
    compare(make_theirs(**TINY), tmp_path, clips, *ids, close)


def test_parity_with_transformers_vit_large_at_1568_tokens(tmp_path):
    """Of full width and with all tokens; of its layers, which are all alike, the first few."""
    size = SIZES["vit_large"]
    theirs = make_theirs(
        hidden_size=size.width,
        num_hidden_layers=4,
        pred_num_hidden_layers=4,
        num_attention_heads=size.heads,
        mlp_ratio=size.mlp_hidden / size.width,
        crop_size=224,
        frames_per_clip=16,
        patch_size=16,
    )
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((1, 16, 224, 224, 3)).astype(np.float32)
    ids = random_ids(rng, 1, 1568, 80, 672)

    def close(mine, wanted):
        error = np.abs(np.asarray(mine) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4

    compare(theirs, tmp_path, clips, *ids, close)

    # And every bit finds its way back.
    weights = read_weights(tmp_path)
    parts = {part: to_torch(tree, rows_of(part, 2, 16)) for part, tree in weights.params.items()}
    assert_same(to_hugging_face(parts), arrays_of(theirs))


@pytest.fixture(scope="module")
def named():
    return dict(from_hugging_face(arrays_of(make_theirs(**TINY)))["predictor"])


SHAPE = EncoderShape(width=48, depth=3, heads=2, mlp_hidden=192, patch=8)
PREDICTOR = PredictorShape(width=24, depth=2, heads=2, mlp_hidden=96, mask_tokens=10)
LIKE = expected_shapes(SHAPE, PREDICTOR, "predictor")


def test_names_there_and_back_are_exact(named):
    assert_same(to_torch(from_torch(named, predictor_rows(), LIKE), predictor_rows()), named)


def test_hugging_face_names_there_and_back_are_exact():
    state = arrays_of(make_theirs(**TINY))
    assert_same(to_hugging_face(from_hugging_face(state)), state)


def test_f14_every_array_is_used_or_it_is_an_error(named):
    def read(tensors):
        return from_torch(tensors, predictor_rows(), LIKE)

    with pytest.raises(UserError, match=r"missing .*predictor_embed\.weight"):
        read({f"module.{name}": value for name, value in named.items()})
    without = {name: value for name, value in named.items() if name != "predictor_proj.bias"}
    with pytest.raises(UserError, match=r"missing \['predictor_proj\.bias'\]"):
        read(without)
    with pytest.raises(UserError, match=r"unknown \['extra'\]"):
        read(named | {"extra": np.zeros(1)})
    one_more = {"predictor_blocks.2.norm1.bias": named["predictor_blocks.1.norm1.bias"]}
    with pytest.raises(UserError, match=r"unknown \['predictor_blocks\.2\.norm1\.bias'\]"):
        read(named | one_more)
    hole = {n: v for n, v in named.items() if not n.startswith("predictor_blocks.0.norm1.bias")}
    with pytest.raises(UserError, match=r"missing \['predictor_blocks\.0\.norm1\.bias'\]"):
        read(hole)
    name = "predictor_blocks.1.mlp.fc1.weight"
    with pytest.raises(UserError, match=r"wrong \['.*fc1\.weight has shape \[24, 96\], not \[96"):
        read(named | {name: named[name].T})
    with pytest.raises(UserError, match=r"wrong \['.*fc1\.weight contains numbers that are"):
        read(named | {name: np.where(named[name] > 0, np.nan, named[name])})
    with pytest.raises(UserError, match=r"wrong \['.*fc1\.weight is of type float64"):
        read(named | {name: named[name].astype(np.float64)})
    with pytest.raises(UserError, match="odd"):
        from_hugging_face({"odd": np.zeros(1)})
    with pytest.raises(UserError, match=r"key\.weight"):
        from_hugging_face({"encoder.layer.0.attention.key.weight": np.zeros((2, 2))})


# The full recipe, and a distilled model with heads as wide as its teacher.
@pytest.mark.parametrize(("levels", "out_width"), [(4, 0), (1, 1664)])
def test_vit_b_of_vjepa21_there_and_back_bit_by_bit(levels, out_width):
    size, rng = SIZES["vit_base"], np.random.default_rng(0)
    shape = EncoderShape(size.width, size.depth, size.heads, size.mlp_hidden, family="v2.1")
    predictor = PredictorShape(384, 12, 12, 1536, 8, levels, out_width)
    # Besides 12 arrays of each block: two embeddings, two vectors and four norms in the encoder; in
    # the predictor eight mask tokens, two vectors, a norm, two heads, and one or two first layers.
    outside = {"encoder": 4 + 2 + 8, "predictor": 8 + 2 + 2 + 4 + (4 if levels > 1 else 2)}
    for part, others in outside.items():
        like = expected_shapes(shape, predictor, part)
        tree = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), like)
        rows = rows_of(part, shape.tubelet, shape.patch, shape.family, levels)
        tensors = to_torch(tree, rows)
        names = list(tensors)
        assert len(names) == 12 * 12 + others
        jax.tree.map(np.testing.assert_array_equal, from_torch(tensors, rows, like), tree)
