"""Weights into files and back: every bit, every format, and every way a file can be bad."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import VJEPA2Config, VJEPA2Model

from echojepa_jax.models.pixels import normalise
from echojepa_jax.models.vit import SIZES
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.hugging_face import check_network
from echojepa_jax.weights.pretrained import ClipInput, PredictorShape, Pretrained
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.stablehlo import write_stablehlo
from echojepa_jax.weights.vjepa2 import rows_of, to_torch
from echojepa_jax.weights.write import FORMATS, write_weights
from tests.benchmarks.convert import measure
from tests.makers.weights import PREDICTOR, TINY, random_weights

pytestmark = pytest.mark.slow

HEADS = {"heads": 2, "predictor_heads": 1}
CLIP = ClipInput(4, 32, "duration", 1.2, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def assert_same(one: Pretrained, other: Pretrained) -> None:
    assert (one.shape, one.predictor_shape) == (other.shape, other.predictor_shape)
    assert one.fingerprints() == other.fingerprints()
    jax.tree.map(np.testing.assert_array_equal, dict(one.params), dict(other.params))


@pytest.mark.parametrize("form", list(FORMATS))
def test_every_format_gives_back_every_bit_and_the_clip_input(tmp_path, form):
    weights = random_weights(clip=CLIP)
    write_weights(weights, tmp_path / "out", form)
    back = read_weights(tmp_path / "out")
    assert_same(weights, back)
    assert back.clip == CLIP
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert card.count(str(CLIP.size)) > 0
    # What a hub reads: between two lines of dashes, before everything else.
    nothing, head, text = card.split("---\n", 2)
    loaded_by = {"hf": "transformers", "torch": "pytorch"}.get(form, "echojepa_jax")
    assert nothing == ""
    assert yaml.safe_load(head)["library_name"] == loaded_by
    assert text.lstrip().startswith("# EchoJEPA weights")


@pytest.mark.parametrize(("form", "suffix"), [("safetensors", "safetensors"), ("torch", "pt")])
def test_the_file_in_our_folder_can_be_named_as_well(tmp_path, form, suffix):
    weights = random_weights(clip=CLIP)
    write_weights(weights, tmp_path / "out", form)
    assert_same(weights, read_weights(tmp_path / "out" / f"model.{suffix}"))


def vjepa2_checkpoint(weights: Pretrained, folder: Path) -> dict:
    """A training checkpoint as V-JEPA 2's code writes it."""
    write_weights(weights, folder, "torch")
    wrapped = {}
    for part, named in torch.load(folder / "model.pt", weights_only=True).items():
        wrapped[part] = {f"module.backbone.{name}": value for name, value in named.items()}
    return wrapped | {"opt": {"state": {}}, "scaler": None, "epoch": 3, "loss": 0.5, "lr": 1e-4}


def there_and_back(weights, folder):
    """The weights as a checkpoint of PyTorch, which is read and written again unchanged."""
    checkpoint = vjepa2_checkpoint(weights, folder / "torch")
    torch.save(checkpoint, folder / "latest.pt")
    back = read_weights(folder / "latest.pt", **HEADS)
    assert_same(weights, back)
    write_weights(back, folder / "again", "torch")
    again = torch.load(folder / "again" / "model.pt", weights_only=True)
    for part in ("encoder", "target_encoder", "predictor"):
        assert len(again[part]) == len(checkpoint[part])
        for name, value in again[part].items():
            assert torch.equal(value, checkpoint[part][f"module.backbone.{name}"])
    return checkpoint


def test_f14_a_training_checkpoint_of_pytorch_there_and_back(tmp_path):
    weights = random_weights(parts=("encoder", "predictor"))
    context = {**random_weights(parts=("encoder",)).params["encoder"]}
    context["norm"] = {"scale": context["norm"]["scale"] + 1, "bias": context["norm"]["bias"]}
    weights = dataclasses.replace(weights, params={**weights.params, "context_encoder": context})
    checkpoint = there_and_back(weights, tmp_path)
    renamed = checkpoint | {"ema_encoder": checkpoint["target_encoder"]}
    del renamed["target_encoder"]
    torch.save(renamed, tmp_path / "ema.pt")
    assert_same(weights, read_weights(tmp_path / "ema.pt", **HEADS))


def v21_weights(levels: int, out_width: int = 0) -> Pretrained:
    """V-JEPA 2.1 as its public files have it, of few layers."""
    shape = dataclasses.replace(TINY, family="v2.1")
    predictor = dataclasses.replace(PREDICTOR, levels=levels, out_width=out_width)
    context = random_weights(shape, predictor, ("encoder",)).params["encoder"]
    context["norm0"]["scale"] += 1
    weights = random_weights(shape, predictor)
    return dataclasses.replace(weights, params={**weights.params, "context_encoder": context})


# The full recipe, the echo recipe, and a distilled model, whose teacher is wider.
@pytest.mark.parametrize(("levels", "out_width"), [(4, 0), (1, 0), (1, 40)])
def test_a_training_checkpoint_of_vjepa21_there_and_back(tmp_path, levels, out_width):
    weights = v21_weights(levels, out_width)
    checkpoint = there_and_back(weights, tmp_path)
    names = {name.removeprefix("module.backbone.") for name in checkpoint["encoder"]}
    assert {"img_mod_embed", "patch_embed_img.proj.weight", "norms_block.3.bias"} <= names
    image = checkpoint["encoder"]["module.backbone.patch_embed_img.proj.weight"]
    assert list(image.shape) == [24, 3, 1, 8, 8]
    for form in ("orbax", "safetensors"):
        write_weights(weights, tmp_path / form, form)
        assert_same(weights, read_weights(tmp_path / form))
    with pytest.raises(UserError, match=r"transformers has no model of family v2\.1"):
        write_weights(weights, tmp_path / "hf", "hf")


def test_a_plain_state_dict_is_an_encoder(tmp_path):
    weights = random_weights(parts=("encoder",), predictor=None)
    named = vjepa2_checkpoint(weights, tmp_path / "torch")["encoder"]
    torch.save(named, tmp_path / "plain.pt")
    assert_same(weights, read_weights(tmp_path / "plain.pt", **HEADS))
    torch.save({"state_dict": named}, tmp_path / "wrapped.pt")
    assert_same(weights, read_weights(tmp_path / "wrapped.pt", **HEADS))
    save_file(named, tmp_path / "plain.safetensors")
    assert_same(weights, read_weights(tmp_path / "plain.safetensors", **HEADS))


def test_half_precision_is_widened_exactly(tmp_path):
    named = vjepa2_checkpoint(random_weights(predictor=None, parts=("encoder",)), tmp_path / "t")
    for dtype in (torch.bfloat16, torch.float16):
        half = {name: value.to(dtype) for name, value in named["encoder"].items()}
        torch.save(half, tmp_path / "half.pt")
        save_file(half, tmp_path / "half.safetensors")
        one = read_weights(tmp_path / "half.pt", **HEADS)
        two = read_weights(tmp_path / "half.safetensors", **HEADS)
        assert_same(one, two)
        bias = one.params["encoder"]["norm"]["bias"]
        np.testing.assert_array_equal(bias, half["module.backbone.norm.bias"].float().numpy())


def test_sizes_come_from_the_file(tmp_path):
    predictor = PredictorShape(384, 1, 12, 1536, 10)
    weights = random_weights(SIZES["vit_tiny"], predictor)
    torch.save(vjepa2_checkpoint(weights, tmp_path / "torch"), tmp_path / "tiny.pt")
    assert_same(weights, read_weights(tmp_path / "tiny.pt"))
    small = random_weights(predictor=None, parts=("encoder",))
    torch.save(vjepa2_checkpoint(small, tmp_path / "small"), tmp_path / "small.pt")
    with pytest.raises(UserError, match="width 24 is not one of the known sizes: set --heads"):
        read_weights(tmp_path / "small.pt")
    with pytest.raises(UserError, match="--heads=5 does not divide the width"):
        read_weights(tmp_path / "small.pt", heads=5)


def test_our_hugging_face_folder_is_loaded_without_a_missing_key(tmp_path):
    weights = random_weights(clip=CLIP)
    write_weights(weights, tmp_path / "hf", "hf")
    model, report = VJEPA2Model.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()), report
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    pixels = normalise(jnp.asarray(clips), CLIP.mean, CLIP.std)
    mine = weights.make_encoder().apply({"params": weights.params["encoder"]}, pixels)
    with torch.no_grad():
        video = torch.from_numpy(np.array(pixels)).permute(0, 1, 4, 2, 3)
        theirs = model(video, skip_predictor=True).last_hidden_state
    # Random bits for weights make large features.
    np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_the_standalone_program_runs_without_this_package(tmp_path):
    weights = random_weights(parts=("encoder",), predictor=None, clip=CLIP)
    write_stablehlo(weights, tmp_path / "serve")
    card = (tmp_path / "serve" / "model_card.md").read_text()
    snippet = card.split("```python\n")[1].split("```")[0]
    for number, tolerance in (("float32", 1e-5), ("bfloat16", 0.05)):
        code = snippet.replace("encoder_float32", f"encoder_{number}", 1)
        code = code.replace("np.zeros((1,", "np.full((2,").replace(", np.uint8)", ", 77, np.uint8)")
        code += f"np.save({str(tmp_path / number)!r}, tokens)\nimport sys\n"
        code += "assert not any('echojepa' in name for name in sys.modules)\n"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "serve", check=True)
        tokens = np.load(tmp_path / f"{number}.npy")
        clips = jnp.full((2, 4, 32, 32, 3), 77, jnp.uint8)
        pixels = normalise(clips, CLIP.mean, CLIP.std)
        wanted = weights.make_encoder().apply({"params": weights.params["encoder"]}, pixels)
        assert tokens.dtype == np.float32
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(tokens, wanted, atol=tolerance * scale, rtol=0)


def test_a_vit_large_converts_exactly_quickly_and_in_little_memory(tmp_path):
    """A third of its layers, which are all alike."""
    shape = dataclasses.replace(SIZES["vit_large"], depth=8)
    weights = random_weights(shape, None, ("encoder",))
    cost = measure(weights, tmp_path)
    converted = read_weights(tmp_path / "ours")
    assert converted.fingerprints() == weights.fingerprints()
    theirs = torch.load(tmp_path / "torch" / "model.pt", weights_only=True, mmap=True)
    back = to_torch(converted.params["encoder"], rows_of("encoder", 2, 16))
    assert set(back) == set(theirs["target_encoder"])
    for name, value in back.items():
        assert np.array_equal(value, theirs["target_encoder"][name].numpy()), name
    assert cost["cpu_seconds"] < 20  # half of them to start
    # Python, JAX and PyTorch themselves take 0.5 GB, which tells only at such a size.
    assert cost["peak_bytes"] < 2.5 * cost["checkpoint_bytes"] + 0.5e9


class Code:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def damaged(folder: Path, name: str) -> Path:
    """A file or folder of weights with one fault."""
    weights = random_weights()
    checkpoint = vjepa2_checkpoint(weights, folder / "torch")
    path = folder / "bad.pt"
    encoder = checkpoint["encoder"]
    qkv = "module.backbone.blocks.1.attn.qkv.weight"
    match name:
        case "truncated":
            torch.save(checkpoint, path)
            path.write_bytes(path.read_bytes()[:-5000])
        case "code":
            torch.save({"encoder": Code()}, path)
        case "nan":
            encoder[qkv][0, 0] = torch.nan
            torch.save(checkpoint, path)
        case "unknown section":
            torch.save(checkpoint | {"classifier": {"weight": torch.zeros(2)}}, path)
        case "twice":
            encoder["norm.bias"] = encoder["module.backbone.norm.bias"]
            torch.save(checkpoint, path)
        case "image model":
            torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3)}, path)
        case "not a tensor":
            encoder[qkv] = "hello"
            torch.save(checkpoint, path)
        case "list":
            torch.save([1, 2], path)
        case "truncated safetensors":
            write_weights(weights, folder / "hf", "hf")
            file = folder / "hf" / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-100])
            return folder / "hf"
        case "other model":
            write_weights(weights, folder / "hf", "hf")
            config = json.loads((folder / "hf" / "config.json").read_text())
            (folder / "hf" / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
            return folder / "hf"
        case "bits":
            write_weights(weights, folder / "ours", "safetensors")
            file = folder / "ours" / "model.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
            return folder / "ours"
        case "chunk":
            write_weights(weights, folder / "ours", "orbax")
            biggest = max((folder / "ours").rglob("d/*"), key=lambda file: file.stat().st_size)
            biggest.write_bytes(biggest.read_bytes()[:100])
            return folder / "ours"
        case "empty folder":
            (folder / "ours").mkdir()
            return folder / "ours"
        case "nothing":
            return folder / "nothing"
    return path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("truncated", r"bad\.pt is not a complete PyTorch file"),
        ("code", r"contains more than weights \(.*system\), and .* run code"),
        ("nan", r"blocks\.1\.attn\.qkv\.weight contains numbers that are not finite"),
        ("unknown section", r"unknown entries, \['classifier'\]: .* --ignore"),
        ("twice", r"contains norm\.bias twice, with different prefixes"),
        ("image model", r"is not a V-JEPA 2 encoder or predictor: it has no patch_embed\.proj"),
        ("not a tensor", r"qkv\.weight is a str, not a tensor"),
        ("list", r"contains a list, not a dictionary of weights"),
        ("truncated safetensors", r"model\.safetensors is not a complete safetensors file"),
        ("other model", r"wrong \[.* has shape \[24, 3, 2, 8, 8\], not \[48, 3, 2, 8, 8\]"),
        ("bits", r"is not the one that its config\.json describes: the folder is damaged"),
        ("chunk", r"params cannot be read .*: export or convert the weights again"),
        ("empty folder", r"has no config\.json: it is not a folder of weights"),
        ("nothing", r"nothing does not exist"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, monkeypatch, name, sentence):
    monkeypatch.chdir(tmp_path)
    path = damaged(tmp_path, name)
    with pytest.raises(UserError, match=sentence) as caught:
        read_weights(path, **HEADS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hacked").exists()


def test_what_is_named_as_expected_is_left_out(tmp_path):
    weights = random_weights()
    checkpoint = vjepa2_checkpoint(weights, tmp_path / "torch")
    checkpoint["classifier"] = {"weight": torch.zeros(2)}
    checkpoint["encoder"]["pos_embed"] = torch.zeros(2)
    torch.save(checkpoint, tmp_path / "more.pt")
    ignore = ("^classifier$", "pos_embed")
    back = read_weights(tmp_path / "more.pt", ignore=ignore, **HEADS)
    assert back.fingerprints()["encoder"] == weights.fingerprints()["encoder"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hidden_act": "gelu_new"}, r"hidden_act is 'gelu_new', not 'gelu'"),
        ({"layer_norm_eps": 1e-5}, r"layer_norm_eps is 1e-05, not 1e-06"),
        ({"qkv_bias": False}, r"qkv_bias is False, not True"),
        ({"in_chans": 1}, r"in_chans is 1, not 3"),
        ({"use_rope": False}, r"use_rope is False, not True"),
        ({"hidden_act": "silu", "use_SiLU": True}, r"hidden_act is .*; use_SiLU is True"),
        ({"interpolate_rope": True}, r"interpolate_rope is True, not False"),
        ({"rope_theta": 1000.0}, r"unknown fields, .*: rope_theta = 1000\.0\..* --ignore"),
        ({"final_norm": False}, r"unknown fields, .*: final_norm = False\."),
        ({"rope_scaling": None}, r"unknown fields, .*: rope_scaling = None\."),
        ({"hierarchical_layers": [1, 2]}, r"unknown fields, .*: hierarchical_layers = \[1, 2\]"),
        ({"patch_size": [8, 4]}, r"patch_size is \[8, 4\]"),
    ],
)
def test_a_hugging_face_config_of_another_network_is_refused_by_name(tmp_path, fields, sentence):
    write_weights(random_weights(), tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(UserError, match=sentence) as caught:
        read_weights(tmp_path / "hf")
    assert "\n" not in str(caught.value)


def test_a_hugging_face_config_may_say_more_that_changes_nothing(tmp_path):
    weights = random_weights()
    write_weights(weights, tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "config.json"
    more = {"interpolate_rope": False, "drop_path_rate": 0.1, "id2label": {"0": "a"}, "note": "x"}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    with pytest.raises(UserError, match=r"note = 'x'"):
        read_weights(tmp_path / "hf")
    assert_same(weights, read_weights(tmp_path / "hf", ignore=("^note$",)))
    # All fields that transformers knows, and not only those that it would save.
    theirs = json.loads(VJEPA2Config().to_json_string(use_diff=False))
    check_network(path, theirs, lambda _: False)


def test_f07_nothing_is_overwritten(tmp_path):
    weights = random_weights()
    write_weights(weights, tmp_path / "out", "safetensors")
    with pytest.raises(UserError, match="out exists already"):
        write_weights(weights, tmp_path / "out", "orbax")
    assert read_weights(tmp_path / "out").fingerprints() == weights.fingerprints()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("form", list(FORMATS))
def test_f13_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, form):
    weights = random_weights()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match="full cannot be written"):
            write_weights(weights, tmp_path / "full", form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_formats_that_cannot_hold_the_weights_say_so(tmp_path):
    alone = random_weights(TINY, None, ("encoder",))
    with pytest.raises(UserError, match="a VJEPA2Model needs both"):
        write_weights(alone, tmp_path / "hf", "hf")
    with pytest.raises(UserError, match="--part=target"):
        write_stablehlo(random_weights(parts=("predictor",)), tmp_path / "serve")
    assert not list(tmp_path.iterdir())
