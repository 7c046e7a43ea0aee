"""The rooms of the package: a file imports only from rooms above its own, see docs/design.md."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "echojepa_jax"
DESIGN = PACKAGE.parent / "docs" / "design.md"
# Rows of its first table: | `room` | what is in it | what it must not import although it is above |
_ROWS = re.findall(r"^\| `(\w+)` \| .* \| (.*)\|$", DESIGN.read_text(), re.MULTILINE)
ROOMS = [room for room, _ in _ROWS]
FORBIDDEN = {room: re.findall("`(.+?)`", cell) for room, cell in _ROWS}


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


def test_the_design_page_lists_every_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {*ROOMS} == {*folders, "programs"}
    assert all(part.split(".")[0] in ROOMS for parts in FORBIDDEN.values() for part in parts)
    assert any(FORBIDDEN.values())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_a_file_imports_only_from_rooms_above(path):
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    room = room_of(module)
    for name in imports(path):
        theirs = room_of(name)
        assert not name.startswith("configs"), f"{module} imports {name}"
        assert ROOMS.index(theirs) <= ROOMS.index(room), f"{module} imports {name}"
        for other in FORBIDDEN[room]:
            assert not f"{name}.".startswith(f"echojepa_jax.{other}."), f"{module} imports {name}"


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
