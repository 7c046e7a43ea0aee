"""Claims the folder of a run: for one program at a time, and always with the same config."""

import contextlib
import fnmatch
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from echojepa_jax.parallel import hosts
from echojepa_jax.runtime.platform import COMPILED
from echojepa_jax.train import config as configs
from echojepa_jax.train.workdir import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    PROBE_AT_INIT,
    Workdir,
    explained,
)
from echojepa_jax.utils.config_fields import differences, leaves
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import PARTIAL, held, write_json
from echojepa_jax.utils.metrics_writer import FILE_NAME

log = logging.getLogger(__name__)

# Files of a run that made no step: a new run may replace them.
_LEFT = (
    *(CONFIG, MANIFEST, PROBE_AT_INIT, FILE_NAME, "quarantine*.jsonl", "skipped*.jsonl"),
    *("examples.npz", "events.out.tfevents.*", f".*{PARTIAL}"),
)
_LEFT_FOLDERS = (CHECKPOINTS, BEST, COMPILED)

# Fields that do not change the results: they may differ when a run is resumed.
_PLACEMENT = (
    "mesh.replica",
    "mesh.fsdp",
    "model.attention",
    "model.remat",
    "model.scan_layers",
    "optim.microbatches",
    "data.workers",
)


@contextlib.contextmanager
def claimed(workdir: Workdir, config: ConfigDict) -> Iterator[None]:
    """Creates and locks the folder of a run, and checks the config if it was started before.

    The first host does this for all hosts. Files in a bucket are fetched.

    Raises:
      UserError: the folder cannot be used, another process uses it, or its run has made steps with
        another config; names the fields that differ.
    """
    if not hosts.is_first():
        yield
        return
    path, stack = workdir.path, contextlib.ExitStack()
    try:
        path.mkdir(parents=True, exist_ok=True)
        busy = f"another process uses {workdir.kept}: wait for it, or use another --workdir"
        stack.enter_context(held(path, busy))
    except OSError as error:
        raise UserError(f"--workdir={path} cannot be used: {error.strerror}") from error
    with stack:
        workdir.fetch()
        with explained(str(workdir.bucket)) if workdir.bucket else contextlib.nullcontext():
            _check_config(workdir, config)
        yield


def _check_config(workdir: Workdir, config: ConfigDict) -> None:
    path, mine = workdir.path / CONFIG, _as_json(config)
    found = json.loads(path.read_text()) if path.exists() else {}
    there = configs.complete(ConfigDict(found if isinstance(found, dict) else {}))
    if set(there) != set(config):
        if _is_unused(workdir):
            _start_over(workdir, config)
            return
        what = "belongs to another program" if found else f"is not empty and has no {CONFIG}"
        raise UserError(f"{workdir.kept} {what}: choose another --workdir")
    theirs = _as_json(there)
    differ = differences(theirs, mine)
    if differ and all(text.split()[0] in _PLACEMENT for text in differ):
        log.info("continuing with another %s", ", ".join(differ))
        write_json(path, json.loads(config.to_json(sort_keys=False)))
        return
    if differ and not workdir.has_steps():
        _start_over(workdir, config)
        return
    if differ:
        raise UserError(
            f"{workdir.kept} was started with another config, which differs in "
            f"{', '.join(differ)}: use the same values, or another --workdir"
            f"{_way_out(workdir, config, differ)}"
        )


def _way_out(workdir: Workdir, config: ConfigDict, differ: Sequence[str]) -> str:
    """How to go on with other values of `optim`, if the program can start from given weights."""
    if "init" not in config or not any(text.startswith("optim.") for text in differ):
        return ""
    return f", which can start from these weights with --config.init.from={workdir.kept}"


def _is_unused(workdir: Workdir) -> bool:
    """Whether the folder contains only files of a run that made no step."""
    names = {entry.name for entry in workdir.path.iterdir()}
    return not workdir.has_steps() and all(_is_left(name) for name in names - {*_LEFT_FOLDERS})


def _is_left(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _LEFT)


def _start_over(workdir: Workdir, config: ConfigDict) -> None:
    """Removes the files of a run that made no step, and writes the new config."""
    for folder in {workdir.kept, epath.Path(workdir.path)}:
        for entry in list(folder.iterdir()) if folder.exists() else ():
            if _is_left(entry.name):
                entry.unlink()
    shutil.rmtree(workdir.path / BEST, ignore_errors=True)
    write_json(workdir.path / CONFIG, json.loads(config.to_json(sort_keys=False)))


def _as_json(config: ConfigDict) -> dict[str, Any]:
    # Through JSON and back, so that tuples compare equal to the lists that come from the file.
    return json.loads(json.dumps(dict(leaves(config))))


def is_finished(workdir: Workdir, config: ConfigDict, files: Sequence[str]) -> bool:
    """Whether a run with this workdir and config is complete.

    Programs call it before they import the modules for training, which takes seconds. With several
    hosts or a bucket it returns False: these call `Workdir.is_done` after the claim.

    Raises:
      UserError: as `claimed` and `Workdir.is_done`.
    """
    alone = workdir.bucket is None and not jax.distributed.is_initialized()
    if not alone or not workdir.is_marked():
        return False
    with claimed(workdir, config):
        return workdir.is_done(files)
