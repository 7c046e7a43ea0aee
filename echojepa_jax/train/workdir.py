"""The folder of a run: what it was asked to do, what it ran on, and whether it is really done."""

import contextlib
import dataclasses
import datetime
import fnmatch
import hashlib
import importlib.metadata
import json
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from echojepa_jax import __version__
from echojepa_jax.parallel import hosts
from echojepa_jax.runtime.platform import COMPILED
from echojepa_jax.train import config as configs
from echojepa_jax.train.checkpoint import DAMAGED
from echojepa_jax.utils import buckets
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.config_fields import differences, leaves
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import PARTIAL, held, write_json
from echojepa_jax.utils.metrics_writer import FILE_NAME, read_lines

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
BEST = "best"  # of a probe: the checkpoint of its best epoch
QUARANTINE = "quarantine.jsonl"
PROBE_AT_INIT = "probe_init-v2.json"  # raise the number whenever the probe's features change
MANIFEST = "manifest.json"
_CONFIG, _DONE = "config.json", "done.json"
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


# What a run that made no step may leave: it means nothing for the next one.
_LEFT = (
    *(_CONFIG, MANIFEST, PROBE_AT_INIT, FILE_NAME, "quarantine*.jsonl", "skipped*.jsonl"),
    *("examples.npz", "events.out.tfevents.*", "*.json.*.tmp"),
)
_LEFT_FOLDERS = (CHECKPOINTS, BEST, COMPILED)

# Fields that say how a run is computed, not what: a run may continue with others.
_PLACEMENT = (
    "mesh.replica",
    "mesh.fsdp",
    "model.attention",
    "model.remat",
    "model.scan_layers",
    "optim.microbatches",
    "data.workers",
)


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder of a training run.

    path: where this process reads and writes, on a local disk.
    bucket: where all of it is kept, if that is not `path` itself: "gs://..." or "s3://...".
        Checkpoints are written there directly, the small files are copied.
    """

    path: Path
    bucket: epath.Path | None = None

    @classmethod
    def of(cls, name: str) -> "Workdir":
        """The workdir that a user has named.

        Raises:
          UserError: there is no driver for the bucket.
        """
        if not buckets.is_remote(name):
            return cls(Path(name))
        mark = hashlib.sha256(name.encode()).hexdigest()[:16]
        local = cache_dir() / "workdirs" / mark / str(jax.process_index())
        with _explained(name):
            return cls(local, epath.Path(name))

    @classmethod
    @contextlib.contextmanager
    def to_read(cls, name: str) -> Iterator["Workdir"]:
        """A finished or running workdir, or any folder or file, of which nothing will be changed.

        Of a bucket, all but checkpoints and compiled programs is copied, for as long as it is read;
        errors name the bucket.

        Raises:
          UserError: there is no access to the bucket, or no such folder in it.
        """
        if not buckets.is_remote(name):
            yield cls(Path(name))
            return
        bucket = epath.Path(name)
        with tempfile.TemporaryDirectory(prefix="echojepa-") as folder:
            local = epath.Path(folder)
            with _explained(name):
                if is_file := bucket.is_file():
                    local /= bucket.name
                    buckets.copy_file(bucket, local)
                    # What a file of weights holds, its neighbour may say.
                    if (told := bucket.parent / _CONFIG).exists():
                        buckets.copy_file(told, local.parent / _CONFIG)
                elif bucket.is_dir():
                    buckets.copy(bucket, local, without=(CHECKPOINTS, DAMAGED, COMPILED))
                else:
                    raise FileNotFoundError("there is no such folder or file")
            try:
                yield cls(Path(local), bucket)
            except UserError as error:
                named = str(error).replace(str(local), name)
                named = named.replace(folder, str(bucket.parent) if is_file else name)
                raise UserError(named) from error

    @property
    def kept(self) -> epath.Path:
        """Where all of it is kept."""
        return self.bucket or epath.Path(self.path)

    @property
    def checkpoints(self) -> epath.Path:
        """The folder of checkpoints."""
        return self.kept / CHECKPOINTS

    def share(self) -> None:
        """Lets all hosts see what the first one has claimed.

        Raises:
          UserError: the folder is not on a disk that they share.
        """
        if hosts.is_first():
            self.publish()
        hosts.barrier("workdir is claimed")
        if not hosts.is_first():
            self.fetch()
        if not hosts.is_first() and not (self.path / _CONFIG).exists():
            raise UserError(
                f"{self.kept} is not the same folder on every host: use a shared disk or a bucket"
            )

    def fetch(self) -> None:
        """Makes `path` a copy of the small files in the bucket: what is not there, goes here.

        Raises:
          UserError: there is no access to the bucket.
        """
        if self.bucket is None:
            return
        with _explained(str(self.bucket)):
            found = list(self.bucket.iterdir()) if self.bucket.exists() else []
            files = {file.name: file.read_bytes() for file in found if file.is_file()}
        self.path.mkdir(parents=True, exist_ok=True)
        for old in self.path.iterdir():
            if old.is_file():
                old.unlink()
        for name, content in files.items():
            (self.path / name).write_bytes(content)

    def publish(self) -> None:
        """Copies the small files to the bucket, so that another machine can continue from there.

        Raises:
          UserError: the bucket cannot be written to.
        """
        if self.bucket is None:
            return
        with _explained(str(self.bucket)):
            self.bucket.mkdir(parents=True, exist_ok=True)
            # Last what says that all is there.
            for file in sorted(self.path.iterdir(), key=lambda file: file.name == _DONE):
                if file.is_file() and _writer_of(file.name) == jax.process_index():
                    (self.bucket / file.name).write_bytes(file.read_bytes())


def _explained(name: str) -> contextlib.AbstractContextManager[None]:
    return buckets.explained(name, "cannot be used")


def of_this_host(name: str) -> str:
    """A file that each host writes for itself: "skipped.jsonl" is "skipped.2.jsonl" on host 2."""
    stem, _, kind = name.rpartition(".")
    return name if hosts.is_first() else f"{stem}.{jax.process_index()}.{kind}"


def _writer_of(name: str) -> int:
    """The host that writes a file of that name; -1 for one that is still being written."""
    if name.endswith(PARTIAL):
        return -1
    number = name.split(".")[-2:-1]
    return int(number[0]) if number and number[0].isdigit() else 0


def _as_json(config: ConfigDict) -> dict[str, Any]:
    # Through JSON and back, so that tuples compare equal to the lists that come from the file.
    return json.loads(json.dumps(dict(leaves(config))))


@contextlib.contextmanager
def claimed(workdir: Workdir, config: ConfigDict) -> Iterator[None]:
    """Holds the folder of a run for one program: makes it, or checks that it has the same config.

    Of several hosts the first one does so. What is in a bucket is fetched.

    Raises:
      UserError: the folder cannot be used, is held by another process, or has steps that were made
        with another config; names the fields that differ.
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
        with _explained(str(workdir.bucket)) if workdir.bucket else contextlib.nullcontext():
            _check_config(workdir, config)
        yield


def _check_config(workdir: Workdir, config: ConfigDict) -> None:
    path, mine = workdir.path / _CONFIG, _as_json(config)
    found = json.loads(path.read_text()) if path.exists() else {}
    there = configs.complete(ConfigDict(found if isinstance(found, dict) else {}))
    if set(there) != set(config):
        if _is_unused(workdir):
            _start_over(workdir, config)
            return
        holds = "is not of a training run" if found else f"is not empty and holds no {_CONFIG}"
        raise UserError(f"{workdir.kept} {holds}: choose another --workdir")
    theirs = _as_json(there)
    differ = differences(theirs, mine)
    if differ and all(text.split()[0] in _PLACEMENT for text in differ):
        log.info("continuing with another %s", ", ".join(differ))
        write_json(path, json.loads(config.to_json(sort_keys=False)))
        return
    if differ and not _has_steps(workdir):
        _start_over(workdir, config)
        return
    if differ:
        raise UserError(
            f"{workdir.kept} was started with another config; it differs in {', '.join(differ)}: "
            f"use the same values, or another --workdir{_way_out(workdir, config, differ)}"
        )


def _way_out(workdir: Workdir, config: ConfigDict, differ: Sequence[str]) -> str:
    """How to go on with other values of the optimizer, where weights may come from another run."""
    if "init" not in config or not any(text.startswith("optim.") for text in differ):
        return ""
    return f", which can start from these weights with --config.init.from={workdir.kept}"


def _is_unused(workdir: Workdir) -> bool:
    """Whether the folder holds nothing but what a run without a step may leave."""
    names = {entry.name for entry in workdir.path.iterdir()}
    return not _has_steps(workdir) and all(_is_left(name) for name in names - {*_LEFT_FOLDERS})


def _is_left(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _LEFT)


def _start_over(workdir: Workdir, config: ConfigDict) -> None:
    """Removes what a run without a step has left, and writes the config of the next one."""
    for folder in {workdir.kept, epath.Path(workdir.path)}:
        for entry in list(folder.iterdir()) if folder.exists() else ():
            if _is_left(entry.name):
                entry.unlink()
    shutil.rmtree(workdir.path / BEST, ignore_errors=True)
    write_json(workdir.path / _CONFIG, json.loads(config.to_json(sort_keys=False)))


def _has_steps(workdir: Workdir) -> bool:
    """Whether a step was ever made in this folder."""
    if any("loss" in line for line in read_lines(workdir.path / FILE_NAME)):
        return True
    saved = workdir.checkpoints.iterdir() if workdir.checkpoints.exists() else ()
    return any(entry.name[0].isdigit() for entry in saved)


def now() -> str:
    """The time, for `record`: a run takes it when it starts."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def record(workdir: Workdir, facts: dict[str, Any], program: str, started: str) -> None:
    """Writes what this run is made of: given facts, versions, commit, devices, and the command.

    Args:
      started: when the run began, by `now`; compiling may have taken minutes since.

    Raises:
      UserError: steps were made on other data or weights.
    """
    path = workdir.path / MANIFEST
    if path.exists() and _has_steps(workdir):
        before = json.loads(path.read_text())
        if before["data"]["fingerprint"] != facts["data"]["fingerprint"]:
            raise UserError(
                f"the data of {workdir.kept} have changed since the run was started: the order of "
                "samples would be another one; restore the files, or use another --workdir"
            )
        if before.get("weights") != facts.get("weights"):
            raise UserError(
                f"the weights that {workdir.kept} was started with have changed since then: "
                "restore them, or use another --workdir"
            )
        return
    devices = [f"{d.platform} {d.device_kind}" for d in jax.devices()]
    write_json(
        path,
        {
            "command": " ".join(["python", "-m", f"echojepa_jax.{program}", *sys.argv[1:]]),
            "started": started,
            "version": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "devices": {kind: devices.count(kind) for kind in sorted(set(devices))},
            **facts,
        },
    )


def _commit() -> str:
    """The commit of the code that runs, or "unknown" outside a checkout."""
    here = Path(__file__).parents[2]
    # An installed package may lie in an environment inside somebody else's repository.
    if not (here / "pyproject.toml").exists():
        return "unknown"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def mark_done(workdir: Path, step: int) -> None:
    """Says that the last step was reached and everything is written."""
    write_json(workdir / _DONE, {"step": step})


def is_marked(workdir: Path) -> bool:
    """Whether the run says that it was finished."""
    return (workdir / _DONE).exists()


def is_finished(workdir: Workdir, config: ConfigDict, files: Sequence[str]) -> bool:
    """Whether this very run was finished before.

    A program asks before it loads what only training needs, which takes seconds. Several hosts, and
    who works in a bucket, look at `is_done` when they have met.

    Raises:
      UserError: as `claimed` and `is_done`.
    """
    alone = workdir.bucket is None and not jax.distributed.is_initialized()
    if not alone or not is_marked(workdir.path):
        return False
    with claimed(workdir, config):
        return is_done(workdir, files)


def is_done(workdir: Workdir, files: Sequence[str]) -> bool:
    """True if the run was finished and what it produced is still there (F12).

    Args:
      files: what it has written beside its last checkpoint.

    Raises:
      UserError: the run is marked as done, but a part of it is gone.
    """
    path = workdir.path / _DONE
    if not path.exists():
        return False
    step = json.loads(path.read_text())["step"]
    last = workdir.checkpoints / f"{step:08d}"
    missing = [name for name in files if not (workdir.path / name).exists()]
    if not (last / "_CHECKPOINT_METADATA").exists():
        missing.append(f"{CHECKPOINTS}/{last.name}")
    if missing:
        raise UserError(
            f"{workdir.kept} is marked as done but {missing} are gone: restore them, "
            f"or delete {_DONE} to let training make them again"
        )
    return True
