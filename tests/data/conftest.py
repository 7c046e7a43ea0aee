"""Videos in which every frame shows its own number, for tests of exact frames."""

from pathlib import Path

import pytest

from tests.makers.videos import Numbered


@pytest.fixture
def numbered(tmp_path: Path) -> Numbered:
    return Numbered(tmp_path)


@pytest.fixture
def cut(tmp_path: Path):
    """Write the first `share` of a file to a new one, as an interrupted copy leaves it."""

    def _cut(path: str, share: float) -> str:
        data = Path(path).read_bytes()
        shorter = tmp_path / f"cut-{Path(path).name}"
        shorter.write_bytes(data[: int(len(data) * share)])
        return str(shorter)

    return _cut
