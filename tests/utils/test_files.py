"""Files are whole or not there, and one process at a time holds a file."""

import contextlib

import pytest

from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.utils.files import held, whole


@pytest.mark.parametrize("shared", [False, True])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, shared):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), whole(path, shared) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("result.txt", "old")]
    with whole(path, shared) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("result.txt", "new")]


def test_a_folder_is_whole_or_not_there(tmp_path):
    with contextlib.suppress(RuntimeError), whole(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "a").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with whole(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "a").touch()
    assert (tmp_path / "out" / "a").exists()


def test_a_file_is_held_until_the_block_ends(tmp_path):
    with held(tmp_path, "busy"), pytest.raises(UserError, match=r"^busy$"), held(tmp_path, "busy"):
        pass
    with held(tmp_path, "busy"):
        pass


def test_the_first_line_of_an_error_may_be_empty():
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError("x" * 500)) == "x" * 300
    assert first_line(ValueError()) == ""
