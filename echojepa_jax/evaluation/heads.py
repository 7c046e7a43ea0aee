"""Trained heads on disk: a suite trains each of them once, whichever tasks use it.

A head is two files: its arrays, and after them a JSON file that states all that it was trained
from, and their SHA-256. It lies in a folder of the features that it was trained on.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from echojepa_jax.evaluation.data import Data, Divided
from echojepa_jax.evaluation.fit import Fitted, HowToFit, Look, fit, make_head
from echojepa_jax.evaluation.stored import problem, write_about
from echojepa_jax.probes.examples import Example
from echojepa_jax.utils.files import digest_of, whole

VERSION = 2  # raise it when training would give another head, or the files have another form
_LOOK, _HEADS = "look ", "heads "  # begin the names of arrays of a `Look`, and of the grid's heads


def trained(
    how: HowToFit, data: Data, parts: Divided, probe: ConfigDict, seed: int, *, grid: bool = False
) -> Fitted:
    """The head that `fit` gives: read if `data.heads` has it, else trained and kept there.

    Args:
      grid: the other heads of the grid are needed as well; they are large, and not kept otherwise.

    Raises:
      UserError: see `fit`.
    """
    features = data.features[None]
    arguments = parts.train, parts.val, parts.task, probe, seed
    if data.heads is None:
        return fit(how, features, *arguments)
    facts = {
        "version": VERSION,
        "how": dataclasses.asdict(how),
        "train": _digest(parts.train),
        "val": _digest(parts.val),
        "task": dataclasses.asdict(parts.task),
        "probe": probe.to_dict(),
        "seed": seed,
    }
    facts = json.loads(json.dumps(facts))
    about = data.heads / f"{how.head}-seed{seed}-{digest_of(facts)[:10]}.json"
    if not problem(about, facts) and (json.loads(about.read_text()).get("grid") or not grid):
        head = make_head(how, parts.task, features, probe)
        return Fitted(head=head, task=parts.task, **_read(about))
    fitted = fit(how, features, *arguments)
    _write(about, fitted, facts, grid)
    return fitted


def _digest(examples: Sequence[Example]) -> str:
    return digest_of([dataclasses.asdict(example) for example in examples])


def _write(about: Path, fitted: Fitted, facts: dict[str, Any], grid: bool) -> None:
    look = {_LOOK + k: v for k, v in dataclasses.asdict(fitted.look).items() if v is not None}
    about.parent.mkdir(parents=True, exist_ok=True)
    others = fitted.heads if grid and fitted.heads else {}
    heads = {_HEADS + k: v for k, v in flatten_dict(others, sep="/").items()}
    path = about.with_suffix(".npz")
    with whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **flatten_dict(fitted.params, sep="/"), **look, **heads)
    write_about(about, facts, [path], chosen=fitted.chosen, grid=grid)


def _read(about: Path) -> dict[str, Any]:
    """The fields of a `Fitted` that are kept."""
    with np.load(about.with_suffix(".npz")) as found:
        arrays = dict(found)
    look, heads = (
        {k.removeprefix(start): arrays.pop(k) for k in list(arrays) if k.startswith(start)}
        for start in (_LOOK, _HEADS)
    )
    return {
        "params": unflatten_dict(arrays, sep="/"),
        "heads": unflatten_dict(heads, sep="/") if heads else None,
        "look": Look(**look),
        "chosen": json.loads(about.read_text())["chosen"],
    }
