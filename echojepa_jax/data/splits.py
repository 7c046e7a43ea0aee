"""Splits by patient that stay the same when data are added: a hash says where everyone belongs."""

import hashlib
import hmac
import os
from collections.abc import Mapping

from echojepa_jax.utils.errors import UserError


def parse(text: str) -> dict[str, float]:
    """Shares from "train:0.8,val:0.1,test:0.1"; they must add up to 1.

    Raises:
      UserError: they do not, or this is no such text.
    """
    shares: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, value = part.split(":")
            shares[name.strip().lower()] = float(value)
    except ValueError as error:
        raise UserError(f"--splits={text} must be like train:0.8,val:0.1,test:0.1") from error
    names_are_words = all(name.isalnum() for name in shares)
    fit = min(shares.values()) >= 0 and abs(sum(shares.values()) - 1) < 1e-6  # not so of NaN
    if not names_are_words or not fit:
        raise UserError(f"--splits={text}: shares must not be negative and must add up to 1")
    return {name: share for name, share in shares.items() if share > 0}


def split_of(patient: str, shares: Mapping[str, float], salt: bytes) -> str:
    """The split of a patient: a function of name and salt alone, so nobody ever changes sides."""
    digest = hmac.new(salt, b"split\0" + os.fsencode(patient), hashlib.sha256).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name


def pseudonym(kind: str, text: str, salt: bytes) -> str:
    """Sixteen hex digits that stand for an id, or "" for "".

    Whoever holds the salt can compute them again, to join labels or to add data; nobody else can
    tell whether they stand for a given name.

    Args:
      kind: "patient", "study" or "video": the same text under two kinds gives unrelated digits.
    """
    if not text:
        return ""
    return hmac.new(salt, f"{kind}\0".encode() + os.fsencode(text), hashlib.sha256).hexdigest()[:16]
