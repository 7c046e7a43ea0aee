"""What commit 52c78be wrote is still read: a run, an export, embeddings, a probe, prepared shards.

`data/written_at_52c78be.tar.xz` holds what its programs made of six tiny videos: `prepare`, three
of six steps of `main` with configs/demo.py, shrunken, then `export`, `embed` with two clips, and
`probe` with configs/probes/phantom_lvef.py and a linear head. `expected.json` holds what that
commit read back from them.
"""

import hashlib
import json
import tarfile

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from echojepa_jax.api import load_probe
from echojepa_jax.data import manifest
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.features.embeddings import EmbedSettings, embed
from echojepa_jax.main import train
from echojepa_jax.parallel.mesh import make_mesh
from echojepa_jax.preparation.verify import verify
from echojepa_jax.probes.run import score_on
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.load_weights import config_of_run, load_encoder_weights
from echojepa_jax.train.program import make_program
from echojepa_jax.weights.read import read_weights
from tests.makers.recordings import FOLDER
from tests.makers.tables import rows

pytestmark = pytest.mark.slow

SOURCE = "./prepared"


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The folder in which that commit worked; a test is in it."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(FOLDER / "written_at_52c78be.tar.xz") as archive:
        archive.extractall(folder)  # ours; Python 3.11.2 knows no filter
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def expected(before):
    return json.loads((before / "expected.json").read_text())


def test_shards_are_whole_and_have_their_labels(before):
    assert verify(before / "prepared", workers=1) == []
    samples = manifest.load((SOURCE,), quarantine=None, workers=1)
    assert sorted(sample.targets["ef"] for sample in samples) == [40, 43.5, 47, 50.5, 54, 57.5]


def test_a_checkpoint_gives_back_every_bit_of_the_state(before, expected):
    config = config_of_run(before / "run")
    mesh = make_mesh(jax.devices()[:1])
    program = make_program(config, mesh, channels=1)
    with Checkpoints(before / "run" / "checkpoints", read_only=True) as checkpoints:
        parts = checkpoints.restore(program.state.parts(), 3)
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(parts)
    for _, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
        digest.update(np.asarray(leaf).tobytes())
    assert len(leaves) == expected["leaves"]
    assert digest.hexdigest() == expected["state at step 3"]


def test_runs_and_exports_are_encoders(before, expected):
    assert read_weights(before / "export").fingerprints()["encoder"] == expected["export"]
    assert "encoder" in load_encoder_weights(str(before / "run")).params


def test_embeddings_are_kept_and_made_again_alike(before):
    (path,) = before.glob("embeddings/embeddings-*")
    written = path.read_bytes()
    weights = read_weights(before / "export")
    asked = json.loads((before / "embeddings" / "settings.json").read_text())
    clip = ClipSpec(**{k: tuple(v) if type(v) is list else v for k, v in asked["clip"].items()})
    settings = EmbedSettings(clip, 2, asked["tokens"], asked["dtype"])
    samples = manifest.load((SOURCE,), quarantine=None, workers=1)
    said = embed(weights, samples, before / "embeddings", settings)
    assert said.endswith("contains 12 clips of 6 videos in 1 shard")
    assert path.read_bytes() == written
    embed(weights, samples, before / "again", settings)
    one, two = (pq.read_table(p) for p in (path, before / "again" / path.name))
    assert one.drop_columns("embedding") == two.drop_columns("embedding")
    vectors = [np.array(table["embedding"].to_pylist()) for table in (one, two)]
    np.testing.assert_allclose(*vectors, atol=1e-5, rtol=1e-5)


def test_a_probe_says_what_it_said(before):
    said = {line["id"]: line for line in rows(before / "probe" / "predictions.csv")}
    probe = load_probe(before / "probe")
    samples = manifest.load((SOURCE,), quarantine=None, workers=1)
    for sample in samples:
        if sample.split == "test":
            told = float(said[sample.name]["prediction"])
            value, _, of_heads, flag = probe.predict(sample.path)
            assert value == pytest.approx(told, rel=1e-5)
            # That commit kept one head, and did not record what the training data look like.
            assert (of_heads, flag) == (None, "")
    score_on(before / "probe", [SOURCE], "test", "", before / "scored")
    now = {line["id"]: line for line in rows(before / "scored" / "predictions.csv")}
    for name, line in said.items():
        for column in ("prediction", "spread"):
            assert float(now[name][column]) == pytest.approx(float(line[column]), rel=1e-4)


def test_a_run_that_was_stopped_is_continued_to_its_end(before, tiny):
    config = tiny(
        data__sources=(SOURCE,),
        data__split="",
        data__workers=0,
        model__depth=1,
        predictor__mask_tokens=3,
        checkpoint__keep_latest=2,
    )
    assert train(config, "run").startswith("complete: step 6 of 6")
