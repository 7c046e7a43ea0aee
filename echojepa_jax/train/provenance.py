"""Records data, weights, versions, commit, devices and command of a run in manifest.json."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from echojepa_jax import __version__
from echojepa_jax.train.workdir import MANIFEST, Workdir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import write_json

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


def now() -> str:
    """The current time for `record`; a run calls it when it starts."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def record(workdir: Workdir, facts: dict[str, Any], program: str, started: str) -> None:
    """Writes the given facts with versions, commit, devices and the command to manifest.json.

    Args:
      started: when the run started, from `now`; compiling may have taken minutes since.

    Raises:
      UserError: the run has made steps on other data or weights.
    """
    path = workdir.path / MANIFEST
    if path.exists() and workdir.has_steps():
        before = json.loads(path.read_text())
        if before["data"]["fingerprint"] != facts["data"]["fingerprint"]:
            raise UserError(
                f"the data of {workdir.kept} have changed since the run was started, which would "
                "change the order of samples: restore the files, or use another --workdir"
            )
        if before.get("weights") != facts.get("weights"):
            raise UserError(
                f"the weights that {workdir.kept} was started from have changed since then: "
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
    # An installed package may lie in an environment inside another project's repository.
    if not (here / "pyproject.toml").exists():
        return "unknown"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
