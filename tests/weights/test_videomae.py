"""transformers' VideoMAEForPreTraining with random weights agrees with ours, gradients included."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel

from echojepa_jax.masking.ratio import KINDS, RANDOM, ratio_mask, sample
from echojepa_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD
from echojepa_jax.train.objectives.mae import Mae
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import rows_of
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.videomae import from_hugging_face, to_hugging_face
from echojepa_jax.weights.vjepa2 import to_torch
from echojepa_jax.weights.write import write_weights

pytestmark = pytest.mark.slow

TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 8,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 96,
    "use_mean_pooling": False,
    "layer_norm_eps": 1e-6,
}
GRID = (4, 4, 4)


def make_theirs(kind=VideoMAEForPreTraining, **settings):
    torch.manual_seed(0)
    model = kind(VideoMAEConfig(**TINY, **settings)).eval()
    if kind is VideoMAEForPreTraining:
        model.decoder.norm.eps = 1e-6  # as the original; theirs has 1e-5 whatever its config says
    with torch.no_grad():
        for parameter in model.parameters():
            # Their initialisation leaves biases at 0 and norms at 1: nothing there would be tested.
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def clips_of(rng):
    """Normalised pixels, half of a clip black as in the corners of a sector."""
    pixels = rng.integers(0, 256, (2, 8, 32, 32, 3)) / 255
    pixels[:, :, :, :16] = 0
    return ((pixels - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


def ids_of(kind):
    mask = ratio_mask(kind, 0.75, GRID)
    drawn = [sample(mask, GRID, 0, 0, 0, position) for position in range(2)]
    return tuple(np.stack(ids) for ids in zip(*drawn, strict=True))


def named(weights, trees):
    """Trees as ours, under transformers' names."""
    rows = partial(rows_of, weights.shape, weights.predictor_shape)
    trees = jax.device_get(trees)
    return to_hugging_face({part: to_torch(tree, rows(part)) for part, tree in trees.items()})


@partial(jax.jit, static_argnums=(0, 1, 2))
def ours(encoder, decoder, objective, params, clips, batch):
    """Predicted pixels, the loss, and its gradients."""

    def loss_of(params):
        total, _ = objective.loss(params, encoder, decoder, None, clips, batch, 0)
        return total / len(clips)

    predicted = objective.reconstruct(encoder, decoder, params, clips, batch)
    return predicted, *jax.value_and_grad(loss_of)(params)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_every_gradient_are_theirs(tmp_path, kind, norm_pix):
    theirs = make_theirs(norm_pix_loss=norm_pix)
    theirs.save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    encoder, decoder = weights.make_encoder(), weights.make_predictor()
    clips, (visible, masked) = clips_of(np.random.default_rng(0)), ids_of(kind)

    hidden = np.zeros((2, 64), bool)
    np.put_along_axis(hidden, masked, True, axis=1)
    pixels = torch.from_numpy(clips).permute(0, 1, 4, 2, 3)
    wanted = theirs(pixels, bool_masked_pos=torch.from_numpy(hidden))
    wanted.loss.backward()

    batch = {"context_ids": (visible,), "target_ids": (masked,), "valid": np.ones(2, bool)}
    networks = encoder, decoder, Mae(norm_pix=norm_pix)
    predicted, loss, gradients = ours(*networks, dict(weights.params), clips, batch)
    np.testing.assert_allclose(predicted, wanted.logits.detach(), atol=1e-5, rtol=0)
    assert float(loss) == pytest.approx(wanted.loss.item(), abs=1e-6)
    found = named(weights, gradients)
    expected = dict(theirs.named_parameters())
    assert set(found) == set(expected)
    for name, gradient in found.items():
        close = expected[name].grad.numpy()
        np.testing.assert_allclose(gradient, close, atol=1e-6, rtol=1e-4, err_msg=name)


def test_black_tokens_are_counted_and_cost_nothing():
    clips = clips_of(np.random.default_rng(0))
    _, masked = ids_of(RANDOM)
    targets, black = Mae().targets(jnp.asarray(clips), masked, tubelet=2, patch=8)
    in_the_dark = masked % 4 < 2
    np.testing.assert_array_equal(black, in_the_dark)
    assert np.abs(np.asarray(targets)[in_the_dark]).max() < 1e-4
    # The mean square of what was normalised with an unbiased variance.
    squares = np.square(np.asarray(targets)[~in_the_dark]).mean()
    assert squares == pytest.approx(127 / 128, abs=1e-4)


def test_every_bit_finds_its_way_back_through_all_formats(tmp_path):
    theirs = make_theirs()
    theirs.save_pretrained(tmp_path / "theirs")
    weights = read_weights(tmp_path / "theirs")
    for form in ("orbax", "safetensors", "torch", "hf"):
        write_weights(weights, tmp_path / form, form)
        back = read_weights(tmp_path / form)
        assert (back.shape, back.predictor_shape) == (weights.shape, weights.predictor_shape)
        assert back.fingerprints() == weights.fingerprints()
        card = (tmp_path / form / "model_card.md").read_text()
        assert "# EchoMAE weights" in card
        assert "VJEPA2Model" not in card
    loaded = VideoMAEForPreTraining.from_pretrained(tmp_path / "hf")
    for name, value in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    # A checkpoint of VideoMAE's own code, and its encoder alone.
    path = tmp_path / "torch" / "model.pt"
    names = set(torch.load(path, weights_only=True)["model"])
    assert {"encoder.blocks.1.attn.q_bias", "decoder.head.bias", "mask_token"} <= names
    heads = {"heads": 4, "predictor_heads": 2}
    moved = path.rename(tmp_path / "checkpoint.pth")
    assert read_weights(moved, **heads).fingerprints() == weights.fingerprints()
    only = weights.only("encoder")
    write_weights(only, tmp_path / "encoder", "torch")
    moved = (tmp_path / "encoder" / "model.pt").rename(tmp_path / "encoder.pth")
    back = read_weights(moved, heads=4)
    assert (back.shape.family, back.fingerprints()) == ("videomae", only.fingerprints())
    with pytest.raises(UserError, match="lack the encoder or the decoder"):
        write_weights(only, tmp_path / "half", "hf")


def test_the_encoder_alone_and_names_of_older_versions_are_read():
    theirs = make_theirs(VideoMAEModel)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    parts = from_hugging_face(state)
    assert set(parts) == {"encoder"}
    assert len(parts["encoder"]) == len(state) - 2 * 2  # two layers: q, k, v are one
    older = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for name, value in state.items()
    }
    assert set(older) != set(state)
    for name, value in from_hugging_face(older)["encoder"].items():
        np.testing.assert_array_equal(value, parts["encoder"][name])
    del state["encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(UserError, match=r"not names .*query\.weight"):
        from_hugging_face(state)


def test_all_tokens_of_a_clip_are_encoded_as_theirs(tmp_path):
    theirs = make_theirs(VideoMAEModel)
    theirs.save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    clips = clips_of(np.random.default_rng(1))
    encoder = jax.jit(weights.make_encoder().apply)
    tokens = encoder({"params": weights.params["encoder"]}, clips)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(clips).permute(0, 1, 4, 2, 3)).last_hidden_state
    np.testing.assert_allclose(tokens, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layer_norm_eps": 1e-5}, r"other than the VideoMAEForPreTraining .*is 1e-05, not 1e-06"),
        ({"qv_bias": False}, r"qv_bias is False, not True"),
        ({"patch_size": [8, 4]}, r"patch_size is \[8, 4\]: it must be square"),
        ({"rope_theta": 2}, r"unknown fields, .*: rope_theta = 2"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path, fields, sentence):
    make_theirs(VideoMAEModel).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(UserError, match=sentence):
        read_weights(tmp_path)
