"""Prepared sets, made by the functions of `prepare`."""

import json
from pathlib import Path

from echojepa_jax.preparation import make as preparation
from echojepa_jax.preparation.plan import Options, Work

OPTIONS = Options(size=160, shard_videos=2, splits="train:0.6,val:0.4")


def prepared(
    source: str, out: Path, options: Options = OPTIONS, workers: int = 1, make=preparation.make_here
) -> str:
    work = Work(out)
    with work.claimed():
        return preparation.prepare(source, work, options, workers, make)


def left_out(out: Path) -> dict[str, str]:
    """The reason for every rejected file, by its name."""
    lines = Work(out).rejected.read_text().splitlines()
    return {Path(line["path"]).name: line["reason"] for line in map(json.loads, lines)}
