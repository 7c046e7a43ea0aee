"""The table of public weights: whole, and files are recognised by what is in them."""

import dataclasses
import hashlib
import subprocess
import sys

import pytest

from echojepa_jax.models.family import FAMILIES
from echojepa_jax.models.vit import SIZES
from echojepa_jax.weights import known
from tests import programs
from tests.programs import REPOSITORY


def test_the_table_is_whole():
    rows = known.table()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.family in FAMILIES
        # A ViT-g read with 16 instead of 22 heads loads and says nonsense.
        assert row.heads == SIZES[row.architecture].heads
        assert row.normalisation == "ImageNet"
        assert (row.bytes > 0) == bool(row.sha256 or row.md5)
        assert len(row.sha256) in (0, 64)
        assert len(row.md5) in (0, 32)
        # Either the file itself, or the repository that links to it.
        assert f"/{row.name}," in row.where or row.where.startswith("linked from github.com/")
        assert row.licence


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_file_is_recognised_by_its_digest_and_not_by_its_name(tmp_path, kind):
    path, content = tmp_path / "mine.pt", b"weights"
    path.write_bytes(content)
    digests = {"sha256": "", "md5": ""} | {kind: hashlib.new(kind, content).hexdigest()}
    row = dataclasses.replace(known.table()[0], bytes=len(content), **digests)
    assert known.recognised(path, [row]) == row
    assert row.clip.frames == row.frames
    path.write_bytes(b"weightz")
    assert known.recognised(path, [row]) is None
    assert known.recognised(tmp_path, [row]) is None


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_the_program_without_a_word():
    """Such as `head`."""
    command = f"{sys.executable} -m echojepa_jax.convert --list | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stderr == ""


@pytest.mark.slow
def test_convert_lists_them():
    done = programs.run("convert", "--list")
    assert done.returncode == 0, done.stderr
    assert "vjepa2_1_vitb_mimic_pt169_c60.pt\n  v2.1, vit_base, 12 heads; 32 frames" in done.stdout
    for row in known.table():
        assert f"  get it: {row.where}\n" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    count = len(known.table())
    assert last == f"{count} public files; convert recognises 2 of them by their digests"
