"""Workdirs in buckets, and runs that continue with other ways of computing the same."""

import shutil
import tempfile
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest

from configs.probes import phantom_lvef
from echojepa_jax.main import train
from echojepa_jax.train import checkpoint, orbax_s3, provenance
from echojepa_jax.train.claim import claimed
from echojepa_jax.train.load_weights import load_weights
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import read_lines
from echojepa_jax.weights.write import write_weights
from tests import programs

pytestmark = pytest.mark.slow


def test_a_run_in_a_bucket_is_all_there_and_is_found_again(tiny, tmp_path, bucket, monkeypatch):
    name, run = f"{bucket}/run", bucket / "run"
    said = train(tiny(), name)
    assert said == f"complete: step 6 of 6. The report is {name}/report.html"
    for file in ("config.json", "manifest.json", "metrics.jsonl", "done.json", "report.html"):
        assert (run / file).is_file(), file
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1] == "00000006"
    cache = tmp_path / "cache"
    assert not list(cache.rglob("checkpoints"))
    finished = load_weights(name).params

    forget(cache)  # another machine
    assert "is complete: nothing to do" in train(tiny(), name)
    with pytest.raises(UserError, match="was started with another config"):
        train(tiny(seed=1), name)

    # A checkpoint is never continued with another config, even if no metrics were written.
    lines = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").unlink()
    (run / "done.json").unlink()
    with pytest.raises(UserError, match="was started with another config"):
        train(tiny(seed=1), name)
    (run / "metrics.jsonl").write_bytes(lines)

    # As if it had been killed after its first checkpoint.
    forget(cache)
    (run / "report.html").unlink()
    (run / "checkpoints" / "00000006").rmtree()
    before = losses(run)
    assert train(tiny(), name).startswith("complete")
    assert losses(run) == before
    jax.tree.map(np.testing.assert_array_equal, load_weights(name).params, finished)

    # And as if its last checkpoint had been damaged.
    monkeypatch.setattr(checkpoint, "_BUCKET_PAUSES", (0, 0))
    (run / "done.json").unlink()
    (run / "checkpoints" / "00000006" / "params" / "manifest.ocdbt").unlink()
    assert train(tiny(), name).startswith("complete")
    assert (run / "damaged" / "00000006").is_dir()
    jax.tree.map(np.testing.assert_array_equal, load_weights(name).params, finished)


def forget(cache):
    """Empties a cache, but for phantoms, which take long to make."""
    for path in cache.iterdir():
        if path.is_dir() and not path.name.startswith("phantom-"):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def losses(run):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "metrics.jsonl"
        copy.write_bytes((run / copy.name).read_bytes())
        return [line["loss"] for line in read_lines(copy) if "loss" in line]


def test_weights_in_buckets_are_read_and_nothing_is_written(tiny, trained, tmp_path, bucket):
    weights = load_weights(str(trained))
    write_weights(weights.only("encoder"), tmp_path / "export", "orbax")
    for folder in (trained, tmp_path / "export"):
        fsspec.filesystem("s3").put(str(folder), f"{bucket}/{folder.name}", recursive=True)
    for name in ("run", "export"):
        found = load_weights(f"{bucket}/{name}").params["encoder"]
        jax.tree.map(np.testing.assert_array_equal, found, weights.params["encoder"])
    again = train(tiny(**{"init__from": f"{bucket}/run"}), tmp_path / "second")
    assert again.startswith("complete")
    with pytest.raises(UserError, match=r"s3://.*/absent cannot be used: there is no such"):
        load_weights(f"{bucket}/absent")


def test_a_file_of_weights_in_a_bucket_is_read_as_one_on_a_disk(
    trained, tmp_path, bucket, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    weights = load_weights(str(trained)).only("encoder")
    write_weights(weights, tmp_path / "export", "safetensors")
    fsspec.filesystem("s3").put(str(tmp_path / "export"), f"{bucket}/export", recursive=True)
    found = load_weights(f"{bucket}/export/model.safetensors")
    assert found.clip == weights.clip
    jax.tree.map(np.testing.assert_array_equal, found.params, weights.params)

    (bucket / "export" / "config.json").unlink()
    with pytest.raises(UserError, match=rf"^{bucket}/export has no config\.json"):
        load_weights(f"{bucket}/export")
    assert not list((tmp_path / "scratch").iterdir()), "copies go when they are read"


def test_another_orbax_is_a_sentence(monkeypatch):
    for modules, missing in (
        (("path.gcs_utils", "gone"), "No module named"),
        (("path.gcs_utils", "path.gcs_utils"), "no attribute '_use_gcs_driver'"),
    ):
        monkeypatch.setattr(orbax_s3, "_MODULES", modules)
        with pytest.raises(UserError, match=f"cannot write to s3:// .*{missing}.*: install"):
            orbax_s3.teach_orbax.__wrapped__()


def test_a_second_try_knows_nothing_of_the_first(tiny, tmp_path):
    run, other = tmp_path / "run[12]", tmp_path / "run1"  # the one is no pattern for the other
    for folder in (run, other):
        with claimed(Workdir(folder), tiny()):
            pass
    (other / "metrics.jsonl").touch()
    for name in ("skipped.jsonl", "skipped.1.jsonl", "quarantine.1.jsonl", "metrics.jsonl"):
        (run / name).write_text('{"step": 1}\n')
    with claimed(Workdir(run), tiny(seed=1)):
        assert [path.name for path in run.iterdir()] == ["config.json"]
    assert (other / "metrics.jsonl").exists()


def test_a_folder_without_a_step_takes_any_config_and_other_data(tiny, tmp_path):
    """Such as one whose source was refused: the next try is another program, or other files."""
    run, probe = Workdir(tmp_path), phantom_lvef.get_config()
    (tmp_path / "quarantine.jsonl").write_text("{}\n")  # as scoring on refused files leaves it
    for config in (tiny(), probe, tiny()):
        with claimed(run, config):
            assert [path.name for path in tmp_path.glob("*.jsonl")] == []
            (tmp_path / "quarantine.jsonl").write_text("{}\n")
            (tmp_path / "checkpoints").mkdir(exist_ok=True)

    def record(mark):
        provenance.record(run, {"data": {"fingerprint": mark}}, "main", provenance.now())

    record("before")
    record("after")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(UserError, match=r"the data of .* have changed"):
        record("again")
    claims = claimed(run, probe)
    with pytest.raises(UserError, match="belongs to another program"), claims:
        pass

    # Nor is a folder of weights, whose config.json is no leftover.
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "model_card.md").touch()
    claims = claimed(run, probe)
    with pytest.raises(UserError, match="belongs to another program"), claims:
        pass


def test_what_is_gone_is_named_where_it_was_kept(tiny, trained, bucket):
    name = f"{bucket}/run"
    fsspec.filesystem("s3").put(str(trained), name, recursive=True)
    (bucket / "run" / "checkpoints" / "00000006").rmtree()
    with pytest.raises(UserError, match=f"^{name} is marked as done, but .*00000006"):
        train(tiny(), name)


def test_results_of_other_programs_go_to_a_disk():
    done = programs.run("export", "--workdir=runs/x", "--out=gs://bucket/out")
    assert done.returncode == 1
    assert "error: --out=gs://bucket/out is in a bucket: name a folder on a disk" in done.stderr


def test_a_bucket_without_its_driver_is_a_sentence(tiny):
    with pytest.raises(UserError, match=r"gs://b/run needs .* gcsfs: pip install .*\[buckets\]"):
        train(tiny(), "gs://b/run")


def test_how_a_run_is_computed_may_change_what_it_computes_may_not(tiny, tmp_path, caplog):
    with claimed(Workdir(tmp_path / "run"), tiny()):
        (tmp_path / "run" / "checkpoints" / "00000003").mkdir(parents=True)
    other = tiny(mesh__fsdp=8, mesh__replica=1, model__remat="full", data__workers=1)
    with caplog.at_level("INFO"), claimed(Workdir(tmp_path / "run"), other):
        assert "continuing with another" in caplog.text
    other.optim.peak_lr = 0.5
    refused = pytest.raises(UserError, match=r"which differs in optim\.peak_lr")
    with refused, claimed(Workdir(tmp_path / "run"), other):
        pass
