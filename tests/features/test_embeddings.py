"""Embeddings: every clip once, in order, the same bits on any machine, whole or made again."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from safetensors.numpy import load as from_safetensors

from echojepa_jax.data import manifest
from echojepa_jax.data.clips import pipeline
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.features.embeddings import EmbedSettings, embed
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original
from echojepa_jax.weights.write import write_weights
from tests import programs
from tests.makers.calls import before
from tests.makers.weights import random_weights

pytestmark = pytest.mark.slow

SOURCE = "phantom:adult,patients=10,views=2,seed=1"
SETTINGS = EmbedSettings(ClipSpec(4, 32, "stride", 2), clips=3, shard_videos=8)


@pytest.fixture(scope="module")
def weights():
    return random_weights(parts=("encoder",), predictor=None)


@pytest.fixture(scope="module")
def samples(cache):
    return manifest.load((SOURCE,), quarantine=None, workers=1)


@pytest.fixture(scope="module")
def made(weights, samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("embeddings") / "out"
    said = embed(weights, samples, out, SETTINGS, by_study=True)
    assert said == f"{out} contains 60 clips of 20 videos in 3 shards"
    return out


def rows(out):
    files = sorted(out.glob("embeddings-*"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_f01_f05_every_clip_once_in_input_order_with_its_ids(made, samples, weights):
    found = rows(made)
    names = [(row["name"], row["clip"]) for row in found]
    assert names == [(sample.name, clip) for sample in samples for clip in range(3)]
    assert [row["row"] for row in found] == [i for i in range(20) for _ in range(3)]
    assert {row["view"] for row in found} == {sample.view for sample in samples}
    vectors = np.array([row["embedding"] for row in found])
    assert vectors.shape == (60, weights.shape.width)
    assert len(np.unique(vectors, axis=0)) == 60
    text = pq.read_schema(next(made.glob("embeddings-*"))).metadata[b"echojepa_jax"]
    assert json.loads(text)["encoder"] == weights.fingerprints()["encoder"]


def test_a_study_is_the_mean_of_its_clips(made, samples):
    found = rows(made)
    studies = pq.read_table(made / "studies.parquet").to_pylist()
    assert [s["study"] for s in studies] == list(dict.fromkeys(s.study for s in samples))
    for study in studies:
        clips = [row["embedding"] for row in found if row["study"] == study["study"]]
        assert study["clips"] == len(clips) == 6
        np.testing.assert_allclose(study["embedding"], np.mean(clips, axis=0), atol=1e-5)


def test_hosts_share_the_shards_and_the_last_one_finishes(made, weights, samples, tmp_path):
    out = tmp_path / "out"
    first = embed(weights, samples, out, SETTINGS, host=1, hosts=2)
    assert first == "host 1 of 2 is done; still to come from other hosts: 2 shards"
    assert [p.name for p in out.glob("embeddings-*")] == ["embeddings-00001-of-00003.parquet"]
    assert "contains 60 clips" in embed(weights, samples, out, SETTINGS, host=0, hosts=2)
    assert rows(out) == rows(made)


def test_a_killed_run_is_finished_and_finished_shards_are_kept(
    made, weights, samples, tmp_path, caplog
):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    half = out / "embeddings-00001-of-00003.parquet"
    half.write_bytes(half.read_bytes()[:-500])  # half written
    flipped = out / "embeddings-00002-of-00003.parquet"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 0xFF
    flipped.write_bytes(content)
    kept = out / "embeddings-00000-of-00003.parquet"
    before = kept.stat().st_mtime_ns
    embed(weights, samples, out, SETTINGS)
    assert "00001-of-00003.parquet is made again: it cannot be read" in caplog.text
    assert "00002-of-00003.parquet is made again: it cannot be read" in caplog.text
    assert kept.stat().st_mtime_ns == before
    assert rows(out) == rows(made)


def test_clips_that_cannot_differ_are_encoded_once(weights, samples, tmp_path, monkeypatch):
    """And a shard that is made again alone has the same bits."""
    # Room for one clip of 4 frames that are 2 apart in every third video, for three in the others.
    mixed = [dataclasses.replace(s, frames=60 if i % 3 else 8) for i, s in enumerate(samples)]
    settings = dataclasses.replace(SETTINGS, batch=4)
    encoded = []
    before(monkeypatch, pipeline.decode, "decode", encoded.append)
    embed(weights, mixed, tmp_path / "out", settings)
    # Of 8, 8 and 4 videos: 18, 18 and 10 clips differ, and 2 more fill up a batch of the first two.
    assert len(encoded) == 20 + 20 + 10
    found = rows(tmp_path / "out")
    places = [(row["row"], row["clip"]) for row in found]
    assert places == [(row, clip) for row in range(20) for clip in range(3)]
    vectors = np.array([row["embedding"] for row in found]).reshape(20, 3, -1)
    for row, three in enumerate(vectors):
        assert len(np.unique(three.round(5), axis=0)) == (3 if row % 3 else 1)
    (tmp_path / "out" / "embeddings-00001-of-00003.parquet").unlink()
    embed(weights, mixed, tmp_path / "out", settings)
    assert rows(tmp_path / "out") == found


def test_a_folder_without_a_shard_takes_other_settings(weights, samples, tmp_path):
    """As one that was stopped before its first shard, or whose files could not be read."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "_settings.json").write_text('{"clips": 2}')
    settings = dataclasses.replace(SETTINGS, clips=1)
    assert "contains 2 clips" in embed(weights, samples[:2], out, settings)
    assert json.loads((out / "_settings.json").read_text())["clips"] == 1


def test_f12_shards_of_other_clips_are_not_taken_for_these(made, weights, samples, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    first = out / "embeddings-00000-of-00003.parquet"
    shutil.copy(first, first.with_name("embeddings-00001-of-00003.parquet"))
    embed(weights, samples, out, SETTINGS)
    assert rows(out) == rows(made)


def test_other_settings_data_or_weights_are_refused_by_name(made, weights, samples):
    fewer = EmbedSettings(SETTINGS.clip, clips=2, shard_videos=8)
    with pytest.raises(UserError, match=r"differ in clips \(3 there, 2 now\)"):
        embed(weights, samples, made, fewer)
    with pytest.raises(UserError, match=r"differ in data .*, videos \(20 there, 19 now\)"):
        embed(weights, samples[1:], made, SETTINGS)
    other = random_weights(parts=("encoder",), predictor=None)
    other.params["encoder"]["norm"]["bias"][0] += 1
    with pytest.raises(UserError, match="differ in encoder"):
        embed(other, samples, made, SETTINGS)


def test_all_tokens_are_kept_and_their_mean_is_the_embedding(weights, samples, tmp_path):
    settings = EmbedSettings(SETTINGS.clip, clips=2, shard_videos=8, tokens="all")
    embed(weights, samples[:9], tmp_path / "out", settings)
    found = rows(tmp_path / "out")
    files = sorted((tmp_path / "out").glob("tokens-*"))
    records = [record for file in files for record in ArrayRecordReader(str(file)).read_all()]
    assert len(records) == len(found) == 18
    for row, record in zip(found, records, strict=True):
        tokens = from_safetensors(record)["tokens"]
        assert tokens.shape == (2 * 4 * 4, weights.shape.width)
        np.testing.assert_allclose(tokens.mean(axis=0), row["embedding"], atol=1e-5)
        assert f'"name":"{row["name"]}"' in record[:600].decode(errors="replace")


def test_f04_f16_a_video_that_cannot_be_decoded_keeps_its_row(weights, samples, tmp_path):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(Path(samples[3].path).read_bytes()[:2000])
    mixed = list(samples[:8])
    mixed[3] = dataclasses.replace(samples[3], path=str(bad))
    said = embed(weights, mixed, tmp_path / "out", SETTINGS)
    assert said.endswith("3 of them could not be decoded, see column 'error'")
    found = rows(tmp_path / "out")
    assert [row["embedding"] is None for row in found] == [row["row"] == 3 for row in found]
    assert all((row["error"] != "") == (row["row"] == 3) for row in found)


ODD_NAMES = (b"M\xfcller.avi", b"two\nlines.avi", b"a,'b\" \\.avi", b"-a.avi")


def test_any_file_name_goes_through(weights, samples, tmp_path):
    """In a folder whose name is no text either; one that is damaged costs itself alone."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in ODD_NAMES:
        shutil.copy(samples[0].path, os.path.join(folder, name))
    Path(os.fsdecode(folder + b"/\xff.avi")).write_bytes(b"no video")
    listed = tmp_path / "quarantine.jsonl"
    source = f"videos:{os.fsdecode(folder)}"
    odd = manifest.load((source,), quarantine=listed, max_bad_share=0.5, workers=1)
    settings = dataclasses.replace(SETTINGS, clips=1, tokens="all")
    for _ in range(2):  # made, and found to be there
        assert "4 clips of 4 videos" in embed(weights, odd, tmp_path / "out", settings)
    found = rows(tmp_path / "out")
    assert sorted(os.fsencode(original(row["name"])) for row in found) == sorted(ODD_NAMES)
    assert all(row["name"].isprintable() and row["error"] == "" for row in found)
    assert {original(row["source"]) for row in found} == {odd[0].source}
    (line,) = map(json.loads, listed.read_text().splitlines())
    assert os.fsencode(original(line["path"])) == folder + b"/\xff.avi"
    assert line["path"].isprintable()


def test_f01_a_thousand_clips_are_the_same_on_1_2_and_8_devices(
    weights, samples, tmp_path, monkeypatch
):
    """On one as a user does; on more, those of this process."""
    write_weights(weights, tmp_path / "weights", "safetensors")
    flags = (f"--weights={tmp_path / 'weights'}", f"--source={SOURCE}", "--clips=50")
    process = programs.start("embed", *flags, f"--out={tmp_path / '1'}", "--workers=0")
    settings = EmbedSettings(clip_spec(weights, 0, 0, "", 0, "--"), clips=50)
    said = {}
    for devices, workers in ((2, 2), (8, 0)):
        monkeypatch.setattr(jax, "local_devices", lambda n=devices: jax.devices()[:n])
        out = tmp_path / str(devices)
        said[out] = embed(weights, samples, out, settings, workers=workers)
    done = programs.finish(process)
    assert done.returncode == 0, done.stderr
    said[tmp_path / "1"] = done.stdout.strip()
    for out, sentence in said.items():
        assert sentence == f"{out} contains 1,000 clips of 20 videos in 1 shard"
    one, two, eight = (rows(tmp_path / name) for name in "128")
    assert len(one) == 1000
    assert one == two == eight


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path):
    done = programs.run("embed", "--weights=nowhere", f"--source={SOURCE}", f"--out={tmp_path}/out")
    assert programs.error_of(done).startswith("error: nowhere does not exist")
    assert not (tmp_path / "out").exists()


def test_the_folder_can_be_read_as_one_table_with_files_left_out(weights, samples, tmp_path):
    write_weights(weights, tmp_path / "weights", "safetensors")
    for sample in samples[:3]:
        shutil.copy(sample.path, tmp_path)
    (tmp_path / "bad.avi").write_bytes(b"none")
    flags = f"--weights={tmp_path / 'weights'}", f"--source=videos:{tmp_path}"
    programs.succeed("embed", *flags, f"--out={tmp_path / 'out'}", "--max_bad_share=0.5")
    assert "bad.avi" in (tmp_path / "out" / "_quarantine.jsonl").read_text()
    assert pq.read_table(tmp_path / "out").num_rows == 3


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((5, 0, "", 0), "--frames is 5, but it must be a multiple of 2, .* nearest is 4"),
        ((0, 36, "", 0), "--size is 36, but it must be a multiple of 8, .* nearest is 32"),
        ((0, 0, "fsp", 8), "--sample_by is 'fsp', but it must be one of fps, stride, duration"),
        ((0, 0, "fps", 0), "--sample_by=fps needs --sample_value"),
        ((0, 0, "", -1), "--sample_value is -1, but it must be positive"),
    ],
)
def test_clips_that_the_encoder_cannot_take_are_refused(weights, values, sentence):
    with pytest.raises(UserError, match=sentence):
        clip_spec(weights, *values, "--")


def test_clips_are_as_in_the_encoders_training_unless_given(weights):
    told = weights.clip
    assert clip_spec(weights, 0, 0, "", 0, "--") == ClipSpec(told.frames, told.size, "fps", 8.0)
    assert clip_spec(weights, 8, 64, "stride", 2, "--") == ClipSpec(8, 64, "stride", 2)


def test_settings_that_cannot_work_are_refused(weights, samples, tmp_path):
    with pytest.raises(UserError, match="not a multiple of --batch=16; the nearest is 96"):
        EmbedSettings(SETTINGS.clip, batch=16, shard_videos=100)
    with pytest.raises(UserError, match=r"--host=2 must be from 0 to 1"):
        embed(weights, samples, tmp_path / "out", SETTINGS, host=2, hosts=2)
    unknown = [dataclasses.replace(sample, study="") for sample in samples]
    with pytest.raises(UserError, match="--by_study needs studies"):
        embed(weights, unknown, tmp_path / "out", SETTINGS, by_study=True)
    assert not (tmp_path / "out").exists()
