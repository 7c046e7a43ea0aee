"""Any file name becomes text and comes back, and reaches a program from the command line."""

import ast
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojepa_jax.command_line import for_config_flags
from echojepa_jax.utils.buckets import on_disk
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import as_unicode, original, shown

ODD = os.fsdecode(b"caf\xe9")


@given(st.binary(max_size=20), st.text(max_size=10))
def test_names_are_encoded_reversibly(data, text):
    for name in (os.fsdecode(data), text, os.fsdecode(data) + text):
        assert shown(name).isprintable()
        assert original(shown(name)) == name
        assert as_unicode(name) in (name, shown(name))
        as_unicode(name).encode()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Müller 心.avi", "Müller 心.avi"),
        (ODD, r"caf\xe9"),
        (r"caf\xe9", r"caf\\xe9"),
        (r"a\b", r"a\b"),
        ("a\nb\\", r"a\x0ab\\"),
        ("a\nb\tc\u2028d", r"a\x0ab\x09c\u2028d"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_is_shown(name, text):
    assert shown(name) == text


def test_a_source_in_a_tuple_may_be_called_by_any_bytes():
    flag = "--config.data.sources="
    (word,) = for_config_flags([f"{flag}('videos:/data/{ODD}', 'phantom:adult')"])
    assert ast.literal_eval(word.removeprefix(flag)) == (f"videos:/data/{ODD}", "phantom:adult")
    assert for_config_flags([f"--source=videos:{ODD}"]) == [f"--source=videos:{ODD}"]


def test_results_are_not_written_to_a_folder_whose_name_is_no_text(tmp_path):
    with pytest.raises(UserError, match=r"^--out=caf.*name another folder"):
        on_disk(ODD, "out")
    assert on_disk(str(tmp_path), "out") == tmp_path
