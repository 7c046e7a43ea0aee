"""The folder of a run: its files, its copy in a bucket, and whether the run is complete."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from etils import epath

from echojepa_jax.parallel import hosts
from echojepa_jax.runtime.platform import COMPILED
from echojepa_jax.train.checkpoint import DAMAGED
from echojepa_jax.utils import buckets
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import PARTIAL, write_json
from echojepa_jax.utils.metrics_writer import FILE_NAME, read_lines

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
BEST = "best"  # of a probe: the checkpoint of its best epoch
QUARANTINE = "quarantine.jsonl"
PROBE_AT_INIT = "probe_init-v2.json"  # raise the number whenever the probe's features change
MANIFEST = "manifest.json"
CONFIG, _DONE = "config.json", "done.json"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder of a training run.

    path: the folder on a local disk in which this process reads and writes.
    bucket: "gs://..." or "s3://...", if the run is kept in a bucket. Checkpoints are written there
        directly, the small files are copied.
    """

    path: Path
    bucket: epath.Path | None = None

    @classmethod
    def of(cls, name: str) -> "Workdir":
        """The workdir with the name that the user has given.

        Raises:
          UserError: there is no driver for the bucket.
        """
        if not buckets.is_remote(name):
            return cls(Path(name))
        mark = hashlib.sha256(name.encode()).hexdigest()[:16]
        local = cache_dir() / "workdirs" / mark / str(jax.process_index())
        with explained(name):
            return cls(local, epath.Path(name))

    @classmethod
    @contextlib.contextmanager
    def to_read(cls, name: str) -> Iterator["Workdir"]:
        """A workdir, or any other folder or file, for reading only.

        Everything in a bucket except checkpoints and compiled programs is copied into a temporary
        folder. Errors name the bucket, not the copy.

        Raises:
          UserError: there is no access to the bucket, or no such folder in it.
        """
        if not buckets.is_remote(name):
            yield cls(Path(name))
            return
        bucket = epath.Path(name)
        with tempfile.TemporaryDirectory(prefix="echojepa-") as folder:
            local = epath.Path(folder)
            with explained(name):
                if is_file := bucket.is_file():
                    local /= bucket.name
                    buckets.copy_file(bucket, local)
                    # The config.json beside a file of weights may describe it.
                    if (about := bucket.parent / CONFIG).exists():
                        buckets.copy_file(about, local.parent / CONFIG)
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
        """The permanent place of the run: the bucket, or else `path`."""
        return self.bucket or epath.Path(self.path)

    @property
    def checkpoints(self) -> epath.Path:
        """The folder of checkpoints."""
        return self.kept / CHECKPOINTS

    @property
    def quarantine(self) -> Path:
        """This host's list of rejected files."""
        return self.path / per_host(QUARANTINE)

    def has_steps(self) -> bool:
        """Whether a step was ever made in this folder."""
        if any("loss" in line for line in read_lines(self.path / FILE_NAME)):
            return True
        saved = self.checkpoints.iterdir() if self.checkpoints.exists() else ()
        return any(entry.name[0].isdigit() for entry in saved)

    def mark_done(self, step: int) -> None:
        """Records that the last step was reached and everything is written."""
        write_json(self.path / _DONE, {"step": step})

    def is_marked(self) -> bool:
        """Whether the run was marked as done."""
        return (self.path / _DONE).exists()

    def is_done(self, files: Sequence[str]) -> bool:
        """Whether the run was marked as done; its results must then still exist (F12).

        Args:
          files: names of the files that it has written beside its last checkpoint.

        Raises:
          UserError: the run is marked as done, but some of its files are missing.
        """
        if not self.is_marked():
            return False
        step = json.loads((self.path / _DONE).read_text())["step"]
        last = self.checkpoints / f"{step:08d}"
        missing = [name for name in files if not (self.path / name).exists()]
        if not (last / "_CHECKPOINT_METADATA").exists():
            missing.append(f"{CHECKPOINTS}/{last.name}")
        if missing:
            raise UserError(
                f"{self.kept} is marked as done, but {missing} are missing: restore them, "
                f"or delete {_DONE} to create them again by training"
            )
        return True

    def share(self) -> None:
        """Makes the folder that the first host has claimed visible to all hosts.

        Raises:
          UserError: the folder is not on a disk that all hosts share.
        """
        if hosts.is_first():
            self.publish()
        hosts.barrier("workdir is claimed")
        if not hosts.is_first():
            self.fetch()
        if not hosts.is_first() and not (self.path / CONFIG).exists():
            raise UserError(
                f"{self.kept} is not the same folder on all hosts: use a shared disk or a bucket"
            )

    def fetch(self) -> None:
        """Makes `path` a copy of the small files in the bucket; other files in it are deleted.

        Raises:
          UserError: there is no access to the bucket.
        """
        if self.bucket is None:
            return
        with explained(str(self.bucket)):
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
        with explained(str(self.bucket)):
            self.bucket.mkdir(parents=True, exist_ok=True)
            # The file that marks the run as done comes last.
            for file in sorted(self.path.iterdir(), key=lambda file: file.name == _DONE):
                if file.is_file() and _writer_of(file.name) == jax.process_index():
                    (self.bucket / file.name).write_bytes(file.read_bytes())


def explained(name: str) -> contextlib.AbstractContextManager[None]:
    """Turns the errors of a bucket's driver into UserError."""
    return buckets.explained(name, "cannot be used")


def per_host(name: str) -> str:
    """This host's name for a file that every host writes: "skipped.2.jsonl" on host 2."""
    stem, _, kind = name.rpartition(".")
    return name if hosts.is_first() else f"{stem}.{jax.process_index()}.{kind}"


def _writer_of(name: str) -> int:
    """The number of the host that writes a file of that name; -1 for an unfinished file."""
    if name.endswith(PARTIAL):
        return -1
    number = name.split(".")[-2:-1]
    return int(number[0]) if number and number[0].isdigit() else 0
