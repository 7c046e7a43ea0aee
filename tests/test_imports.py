"""The rooms of the package: a file imports only from rooms above its own (docs: README)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "echojepa_jax"
ROOMS = ["utils", "runtime", "parallel", "ops", "masking", "phantom", "models", "weights", "data"]
ROOMS += ["preparation", "features", "train", "costs", "probes", "report", "programs"]
# What a room must not import although it stands above.
FORBIDDEN = {
    "models": {"masking"},
    "weights": {"masking"},
    "data": {"models", "ops", "parallel", "weights"},
    "preparation": {"models", "ops", "parallel", "weights"},
}
FORBIDDEN_FILES = {"probes": {"echojepa_jax.train.loop"}}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "programs"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found.discard("echojepa_jax.__version__")  # of no room, and imports nothing
    return {name for name in found if name.startswith(("echojepa_jax", "configs"))}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_a_file_imports_only_from_rooms_above(path):
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    room = room_of(module)
    for name in imports(path):
        theirs = room_of(name)
        assert not name.startswith("configs"), f"{module} imports {name}"
        assert ROOMS.index(theirs) <= ROOMS.index(room), f"{module} imports {name}"
        assert theirs not in FORBIDDEN.get(room, set()), f"{module} imports {name}"
        for file in FORBIDDEN_FILES.get(room, set()):
            assert not name.startswith(file), f"{module} imports {name}"


def test_only_programs_touch_flags():
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE:
            assert "DEFINE_" not in path.read_text(), path


def test_configs_import_only_ml_collections_and_each_other():
    for path in (PACKAGE.parent / "configs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                raise AssertionError(path)
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("ml_collections", "configs", "configs.probes"), path


def test_no_test_imports_another_test():
    """What tests share lies in tests/makers, tests/programs.py and the fixtures of conftest.py."""
    tests = Path(__file__).parent
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                names = [node.module, *(alias.name for alias in node.names)]
                assert not any("test_" in name or "conftest" in name for name in names), path
