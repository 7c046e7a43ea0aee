"""Workdirs in buckets, and runs that continue with other ways of computing the same."""

import shutil
import types

import pytest
from etils import epath

from echojepa_jax.main import train
from echojepa_jax.train import workdir as workdirs
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.writers import read_lines


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that goes by the name gs://bucket, and a local cache of its own."""

    def path(name):
        return epath.Path(str(name).replace("gs://bucket", str(tmp_path / "bucket")))

    monkeypatch.setattr(workdirs, "epath", types.SimpleNamespace(Path=path))
    monkeypatch.setattr(workdirs, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "bucket"


def test_a_run_in_a_bucket_is_all_there_and_is_found_again(tiny, tmp_path, bucket):
    name = "gs://bucket/run"
    said = train(tiny(), name)
    assert said == f"complete: step 6 of 6. The report is {name}/report.html"
    for file in ("config.json", "manifest.json", "metrics.jsonl", "done.json", "report.html"):
        assert (bucket / "run" / file).is_file(), file
    assert (
        sorted(path.name for path in (bucket / "run" / "checkpoints").iterdir())[-1] == "00000006"
    )
    assert not list((tmp_path / "cache").rglob("checkpoints"))

    shutil.rmtree(tmp_path / "cache")  # another machine
    assert "is complete: nothing to do" in train(tiny(), name)
    with pytest.raises(UserError, match="was started with another config"):
        train(tiny(seed=1), name)

    # As if it had been killed after its first checkpoint.
    shutil.rmtree(tmp_path / "cache")
    for gone in ("done.json", "report.html"):
        (bucket / "run" / gone).unlink()
    shutil.rmtree(bucket / "run" / "checkpoints" / "00000006")
    before = read_lines(bucket / "run" / "metrics.jsonl")
    assert train(tiny(), name).startswith("complete")
    after = read_lines(bucket / "run" / "metrics.jsonl")
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (before, after)]
    assert losses[0] == losses[1]


def test_a_bucket_without_its_driver_is_a_sentence(tiny, monkeypatch):
    def path(name):
        raise ImportError("no module named gcsfs")

    monkeypatch.setattr(workdirs, "epath", types.SimpleNamespace(Path=path))
    with pytest.raises(UserError, match=r"--workdir=gs://b/run needs one more package, gcsfs"):
        train(tiny(), "gs://b/run")


def test_how_a_run_is_computed_may_change_what_it_computes_may_not(tiny, tmp_path, caplog):
    with workdirs.claimed(tmp_path / "run", tiny()):
        (tmp_path / "run" / "checkpoints" / "00000003").mkdir(parents=True)
    other = tiny(mesh__fsdp=8, mesh__replica=1, model__remat="full", data__workers=1)
    with caplog.at_level("INFO"), workdirs.claimed(tmp_path / "run", other):
        assert "continuing with another" in caplog.text
    other.optim.peak_lr = 0.5
    refused = pytest.raises(UserError, match=r"it differs in optim\.peak_lr")
    with refused, workdirs.claimed(tmp_path / "run", other):
        pass
