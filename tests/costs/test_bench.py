"""The benchmark: of the training step alone, against PyTorch's step, and of the input pipeline."""

import json
import sys

import jax
import numpy as np
import pytest
import torch

from echojepa_jax.costs import bench, data_bench
from echojepa_jax.costs.bench import random_batch
from echojepa_jax.costs.torch_step import TorchStep
from echojepa_jax.data.clips import transforms
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.preparation.plan import Options
from echojepa_jax.train.program import make_program
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights import vjepa2
from tests import programs
from tests.makers.configs import PHANTOM, SHRINK
from tests.makers.dicom import make
from tests.makers.prepared import prepared

pytestmark = pytest.mark.slow

BLOCKED = ("grain", "clu", "tensorflow_datasets", "av", "pydicom", "cv2", "pyarrow")

SITE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Blocked())
"""


def test_the_step_needs_only_jax_torch_and_ml_collections(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    out = tmp_path / "bench.json"
    done = programs.succeed(
        "bench",
        "--config=configs/demo.py",
        *("--steps=3", "--compare=torch", f"--out={out}"),
        *programs.as_fields({k: v for k, v in SHRINK.items() if k != "data.sources"}),
        # PyTorch without its compiler, which takes half a minute.
        environment={"PYTHONPATH": str(tmp_path), "TORCHDYNAMO_DISABLE": "1"},
    )
    found = json.loads(out.read_text())
    assert len(found["ours"]) == len(found["torch"]) == 3
    facts = found["facts"]
    assert facts["recompilations"] == 0
    assert facts["global_batch"] == 8
    assert 0 < facts["mfu"] < 1
    assert facts["clips_per_second"] == pytest.approx(8 / facts["step_seconds"])
    last = done.stdout.splitlines()[-1]
    assert last.endswith(f"{facts['times_torch']:.2f} times PyTorch's speed")


def test_pytorch_computes_again_where_memory_is_short(tiny, monkeypatch):
    tries = []

    def run(step):
        tries.append(step._encoder.gradient_checkpointing)
        if len(tries) == 1:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(TorchStep, "run", run)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    config = tiny()
    step = TorchStep.fitting(config, random_batch(config))
    assert tries == [False, True]
    assert step.note == "PyTorch recomputes activations, because memory is short"


def test_pytorchs_step_computes_the_same_loss(tiny):
    config = tiny(data__mean=(0.4, 0.5, 0.6), data__std=(0.2, 0.3, 0.4))
    program = make_program(config, meshes.make_mesh(jax.devices()[:1]))
    params = jax.device_get(program.init().params)
    batch = random_batch(config)
    theirs = TorchStep(config, batch, compiled=False)
    encoder = program.networks.encoder
    rows = {part: vjepa2.rows_of(part, encoder.tubelet, encoder.patch) for part in params}
    parts = {part: vjepa2.to_torch(tree, rows[part]) for part, tree in params.items()}
    named = vjepa2.to_hugging_face(parts)
    for part, module in (("encoder", theirs._encoder), ("predictor", theirs._predictor)):
        mine = {k.removeprefix(f"{part}."): v for k, v in named.items() if k.startswith(part)}
        module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in mine.items()})
    theirs._target.load_state_dict(theirs._encoder.state_dict())
    clips = program.networks.normalise(batch["clips"])
    predictor, objective = program.networks.predictor, program.networks.objective

    @jax.jit  # as one program, sooner than operation by operation
    def loss(params, clips, batch):
        return objective.loss(params, encoder, predictor, params["encoder"], clips, batch, 0)

    ours, _ = loss(params, clips, batch)
    np.testing.assert_allclose(float(ours) / 8, float(theirs._plain_loss()), rtol=1e-5)
    before = [p.detach().clone() for p in theirs._target.parameters()]
    assert theirs.run() > 0
    after = theirs._target.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_stages_of_shards_that_are_partly_in_colour(tmp_path, tiny, monkeypatch):
    (tmp_path / "archive").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    make(tmp_path / "archive" / "grey.dcm", noise[..., 0], FrameTime=20.0, PatientID="1")
    make(tmp_path / "archive" / "colour.dcm", noise, "RGB", FrameTime=20.0, PatientID="2")
    out = tmp_path / "shards"
    prepared(f"dicom:{tmp_path}/archive", out, Options(size=64, sector="never", splits="train:1"))
    seen = []
    cut = transforms.cut

    def watched(clip, box, target):
        cut(clip, box, target)
        seen.append(target.std())

    monkeypatch.setattr(transforms, "cut", watched)
    config = tiny(data__sources=(f"shards:{out}",), data__split="", data__workers=0)
    found = data_bench.measure(config, clips=4, say=print)
    assert {"read", "JPEG"} < set(found["stages_clips_per_second"])
    assert min(seen) > 10, "every clip has a picture"


def test_the_input_pipeline_alone(tmp_path):
    out = tmp_path / "data.json"
    flags = "--data", "--config=configs/demo.py", f"--source={PHANTOM}", "--clips=8"
    done = programs.succeed("bench", *flags, *programs.as_fields(SHRINK), f"--out={out}")
    found = json.loads(out.read_text())
    stages = found["stages_clips_per_second"]
    assert set(stages) == {"read and decode", "crop and resize", "masks", "batch", "to the device"}
    together = 1 / sum(1 / rate for rate in stages.values())
    assert found["stages_together"] == pytest.approx(together)
    assert "on one core, clips/s" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("clips/s by 1 cores")


DECORD = """
import numpy as np
from echojepa_jax.data.formats import decode

ours, asked = decode.decode, []

def remembering(path, ids, **how):
    asked.append((path, list(ids)))
    return ours(path, ids, **how)

decode.decode = remembering

class DECORDError(Exception):
    pass

def cpu(number):
    return number

class VideoReader:
    def __init__(self, path, ctx, num_threads):
        self.path = path

    def get_batch(self, ids):
        if (self.path, list(ids)) != asked[-1]:
            raise DECORDError("other frames than ours")
        self.video = ours(self.path, np.asarray(ids))
        return self

    def asnumpy(self):
        return self.video
"""


def test_decord_reads_in_turn(tmp_path):
    (tmp_path / "decord.py").write_text(DECORD)
    out = tmp_path / "data.json"
    fields = programs.as_fields(SHRINK | {"data.workers": 1})
    flags = ["--data", "--config=configs/demo.py", "--clips=16", "--compare=decord", f"--out={out}"]
    done = programs.succeed("bench", *flags, *fields, environment={"PYTHONPATH": str(tmp_path)})
    found = json.loads(out.read_text())
    assert found["decord_clips_per_second"] > 0
    assert "decord, reading" in done.stdout


def test_decord_is_asked_for_where_it_is_not(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UserError, match=r"--compare=decord: .*; pip install decord"):
        data_bench.measure(tiny(), clips=1, say=print, decord=True)


def test_pytorch_has_nothing_to_compare_vjepa21_with(tiny):
    with pytest.raises(UserError, match=r"no PyTorch model of family v2\.1"):
        bench.measure(tiny(model__family="v2.1"), 1, compare_torch=True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--compare=decord"], "--compare=torch measures the step, --compare=decord needs --data"),
        (["--source=shards/x"], "--source is only for --data"),
        (["--data", "--steps=3"], "--steps is not for --data"),
    ],
)
def test_flags_that_do_not_go_together(flags, sentence):
    done = programs.run("bench", "--config=configs/demo.py", *flags)
    assert f"error: {sentence}" in programs.error_of(done)
