"""The Colab notebook, executed as a user does it, on simulated hearts and without a network."""

import ast
import csv
import json
import re
from pathlib import Path

import nbformat
import pytest
from ml_collections import ConfigDict
from nbclient import NotebookClient

from docs.reference import flags_of
from echojepa_jax.probes.config import FIELDS
from echojepa_jax.utils.config_fields import leaves
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.write import write_weights
from tests import programs
from tests.makers.configs import PHANTOM
from tests.makers.weights import random_weights
from tests.programs import REPOSITORY

pytestmark = pytest.mark.slow

NOTEBOOK = REPOSITORY / "launch" / "finetune_colab.ipynb"

# Compilations take most of the time: a linear head on the mean token is the quickest there is.
SMALL = {
    "optim.epochs": 2,
    "optim.batch": 4,
    "encoder.drop_path": 0.0,
    "encoder.layer_decay": 1.0,
    "head.kind": "linear",
    "head.tokens": "mean",
    "eval.bootstrap": 10,
}


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def parameters_at(notebook: nbformat.NotebookNode) -> int:
    """Where the cell of settings is."""
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in notebook.cells]
    assert tagged.count(True) == 1
    return tagged.index(True)


def parameters(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """The settings by name."""
    tree = ast.parse(notebook.cells[parameters_at(notebook)].source)
    set_here = [node for node in tree.body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in set_here}


def shown(cell: nbformat.NotebookNode) -> str:
    """The printed output of a cell."""
    return "".join(part.text for part in cell.outputs if part.output_type == "stream")


def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    hugging_face, workdir, out = tmp_path / "hf", tmp_path / "run", tmp_path / "out"
    write_weights(random_weights(), hugging_face, "hf")
    mine = {"WEIGHTS": str(hugging_face), "WORKDIR": str(workdir), "OUT": str(out)}
    mine |= {"SOURCE": PHANTOM, "OVERRIDES": SMALL}
    assert set(mine) <= set(parameters(notebook))
    settings = "\n".join(f"{name} = {value!r}" for name, value in mine.items())
    notebook.cells.insert(parameters_at(notebook) + 1, nbformat.v4.new_code_cell(settings))
    # One device: several are slower to compile for.
    monkeypatch.setenv("XLA_FLAGS", programs.xla_flags())
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    folder = {"metadata": {"path": str(REPOSITORY)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()

    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert "Device" in shown(cells["devices"])
    assert "echojepa_jax.convert" in shown(cells["weights"])
    for name in ("metrics.json", "predictions.csv", "report.html"):
        assert (workdir / name).stat().st_size
    told = json.loads((workdir / "probe.json").read_text())
    assert read_weights(out).fingerprints() == {"encoder": told["encoder"]}
    for name in ("scatter", "curve"):
        assert any("image/png" in part.get("data", {}) for part in cells[name].outputs)
    with (workdir / "predictions.csv").open() as file:
        first = next(csv.DictReader(file))
    # The API reads the file anew, in another process: float32 may round the last digit otherwise.
    said = re.search(r"predicted (-?[\d.]+) ", shown(notebook.cells[-1]))
    assert first["id"] in shown(notebook.cells[-1])
    assert float(said[1]) == pytest.approx(float(first["prediction"]), abs=0.02)


# --- what is written in it -----------------------------------------------------------------------


def calls(notebook: nbformat.NotebookNode) -> list[tuple[str, list[str]]]:
    """Programs that cells run, with the known beginnings of their flags."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code" or "program(" not in cell.source:
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "program":
                name, *flags = [_beginning(argument) for argument in node.args]
                found.append((name, [flag for flag in flags if flag]))
    return found


def _beginning(node: ast.expr) -> str:
    """What is literal at the start of a text; "" for what is only known when it runs."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) else ""


def fields_of(config: ConfigDict) -> set[str]:
    return {name for name, _ in leaves(config)}


def test_programs_have_the_flags_it_names(notebook):
    from configs import demo

    found = calls(notebook)
    assert {name for name, _ in found} == {"main", "probe", "convert", "export"}
    fields = {"main": fields_of(demo.get_config()), "probe": set(FIELDS)}
    for program, flags in found:
        for flag in flags:
            name, _, field = flag.removeprefix("--").partition("=")[0].partition(".")
            assert name in flags_of(program), f"{program} {flag}"
            assert not field or field in fields[program], f"{program} {flag}"


def test_flags_in_its_text_exist(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    defined = set().union(*(flags_of(name) for name in ("probe", "convert", "export")))
    assert set(re.findall(r"`--(\w+)", text)) <= defined
    named = set(re.findall(r"`(?:echojepa_jax|configs)/[\w/]+\.py`", text))
    assert named
    assert all((REPOSITORY / name.strip("`")).is_file() for name in named)


def test_its_settings_exist(notebook):
    settings = parameters(notebook)
    assert set(settings["OVERRIDES"]) | set(SMALL) <= set(FIELDS)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    sections = "|".join(sorted({name.partition(".")[0] for name in FIELDS if "." in name}))
    named = set(re.findall(rf'[`"]((?:{sections})\.[a-z_]+)[`"]', text))
    assert named
    assert named <= set(FIELDS)
    assert (REPOSITORY / str(settings["CONFIG"])).is_file()
    assert settings["REPOSITORY"] == ""  # section 2 then looks for the code, or asks
    assert not Path(str(settings["WORKDIR"])).is_absolute()
