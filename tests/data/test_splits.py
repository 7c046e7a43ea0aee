"""Splits and pseudonyms: functions of name and salt, and of nothing else."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojepa_jax.data import records, splits
from echojepa_jax.data.video_info import UnreadableVideo
from echojepa_jax.utils.errors import UserError

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
SALTS = st.binary(min_size=16, max_size=40)


@given(st.sets(st.text(min_size=1), min_size=1), st.text(min_size=1), SALTS)
def test_nobody_changes_sides_when_others_come(names, newcomer, salt):
    before = {name: splits.split_of(name, SHARES, salt) for name in names}
    splits.split_of(newcomer, SHARES, salt)
    assert {name: splits.split_of(name, SHARES, salt) for name in names} == before
    assert set(before.values()) <= set(SHARES)


def test_shares_are_kept_and_depend_on_the_salt():
    found = [splits.split_of(f"patient {k}", SHARES, b"a" * 16) for k in range(5000)]
    counts = Counter(found)
    for name, share in SHARES.items():
        assert counts[name] / 5000 == pytest.approx(share, abs=0.02)
    other = [splits.split_of(f"patient {k}", SHARES, b"b" * 16) for k in range(5000)]
    assert sum(a != b for a, b in zip(found, other, strict=True)) > 1000


@given(st.text(min_size=1), SALTS, SALTS)
def test_pseudonyms_need_the_salt(name, salt, other):
    mine = splits.pseudonym("patient", name, salt)
    assert mine == splits.pseudonym("patient", name, salt)
    assert len(mine) == 16
    assert int(mine, 16) >= 0
    assert mine != splits.pseudonym("study", name, salt)
    if salt != other:
        assert mine != splits.pseudonym("patient", name, other)
    assert splits.pseudonym("patient", "", salt) == ""


@pytest.mark.parametrize("text", ["", "train", "train:1,val:1", "train:-1,val:2", "a b:1", "x:y"])
def test_shares_that_make_no_sense(text):
    with pytest.raises(UserError, match="--splits="):
        splits.parse(text)


def test_shares_are_read():
    assert splits.parse("train:0.9, Val:0.1,test:0") == {"train": 0.9, "val": 0.1}


_VALUES = {
    str: st.text(st.characters(codec="utf-8")),
    bytes: st.binary(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(width=32, allow_nan=False),
}


@given(
    st.fixed_dictionaries(
        {name: st.lists(_VALUES[kind], max_size=4) for name, kind in records.KINDS.items()}
    )
)
def test_any_record_comes_back(features):
    packed = records.pack(features)
    assert records.unpack(packed) == features
    assert records.pack(dict(reversed(features.items()))) == packed


@given(st.binary())
def test_bytes_that_are_no_record(data):
    with pytest.raises(UnreadableVideo, match="damaged"):
        records.unpack(data)
