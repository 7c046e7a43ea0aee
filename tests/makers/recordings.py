"""Numbers recorded from the original PyTorch code, and their folder."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "recordings"


class Fixture:
    """Recorded numbers of the original code, with the `config` that they were recorded with."""

    def __init__(self, path: Path) -> None:
        self.arrays = np.load(path)
        self.config = json.loads(str(self.arrays["config"]))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def tree(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays under a prefix, by their names without it."""
        return {
            name.removeprefix(prefix + "/"): self.arrays[name]
            for name in self.arrays.files
            if name.startswith(prefix + "/")
        }


class TrainFixture(Fixture):
    """Recorded training steps."""

    def clips(self, step: int) -> np.ndarray:
        """Normalised clips of a step as [B, T, H, W, 3]."""
        return self.arrays[f"step{step}/clips"].astype(np.float32).transpose(0, 2, 3, 4, 1)

    def ids(self, step: int, kind: str) -> tuple[np.ndarray, ...]:
        """Token ids ("context" or "target") of a step, one [B, K] per mask specification."""
        names = sorted(n for n in self.arrays.files if n.startswith(f"step{step}/{kind}_indices"))
        return tuple(self.arrays[n] for n in names)
