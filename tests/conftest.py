"""Options and settings that all tests share."""

import json
import os
from pathlib import Path

# Before anybody imports jax: eight simulated devices, so that sharded programs can be tested.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import numpy as np
import pytest

DATA_FILES = Path(__file__).parent / "data_files"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--train-fixture",
        type=Path,
        default=DATA_FILES / "train_steps_tiny.npz",
        help="training steps of the original PyTorch code to be equal to (npz)",
    )


class TrainFixture:
    """Recorded training steps of the original code, with names and sizes of its own `config`."""

    def __init__(self, path: Path) -> None:
        self.arrays = np.load(path)
        self.config = json.loads(str(self.arrays["config"]))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def tree(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays under a prefix, by the rest of their names."""
        return {
            name.removeprefix(prefix + "/"): self.arrays[name]
            for name in self.arrays.files
            if name.startswith(prefix + "/")
        }

    def clips(self, step: int) -> np.ndarray:
        """Normalised clips of a step as [B, T, H, W, 3]."""
        return self.arrays[f"step{step}/clips"].astype(np.float32).transpose(0, 2, 3, 4, 1)

    def ids(self, step: int, kind: str) -> tuple[np.ndarray, ...]:
        """Token ids ("context" or "target") of a step, one [B, K] per mask specification."""
        names = sorted(n for n in self.arrays.files if n.startswith(f"step{step}/{kind}_indices"))
        return tuple(self.arrays[n] for n in names)


@pytest.fixture(scope="session")
def train_fixture(request: pytest.FixtureRequest) -> TrainFixture:
    return TrainFixture(request.config.getoption("--train-fixture"))
