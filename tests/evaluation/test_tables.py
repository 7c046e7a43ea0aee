"""Tables as text: what a reader, a spreadsheet and LaTeX get."""

import csv
import io
import re
import string

from ml_collections import ConfigDict

from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.evaluation import rows, tables
from echojepa_jax.evaluation.cells import Cell
from echojepa_jax.evaluation.models import Facts

CLIP = ClipSpec(frames=16, size=64, by="fps", value=24.0)
DATA = {"train": 9, "val": 3, "test": 3, "patients": 15, "without_patient": 0, "rejected": 0}
DATA |= {"outside": {}, "beyond": 0}


def cell(true=(40.0, 60.0, 55.0), **changes):
    fields = {"kind": "regression", "unit": "%", "guess": 50.0, "true": list(true)}
    fields |= {"patients": ["a", "b", "c"], "ids": ["a", "b", "c"]}
    fields |= {"predicted": [x + 4 for x in true]}
    return Cell(**{"variant": {"head": "attentive-1"}} | fields | changes)


def result(*cells, seeds=1, kind="regression", data=DATA, **changes):
    """The result of one task, `lvef`, with one model."""
    model = Facts("demo", "", "0" * 12, CLIP, 1, 512, 64, flops=1e9, places=64, times=8)
    options = {"kind": kind, "data": "adult", "target": "ef", "seeds": tuple(range(seeds))}
    options = ConfigDict(options)
    found = rows.of_task("lvef", options, {"demo": [list(cells)] * seeds}, 5, 0)
    fields = {
        "models": [model],
        "passes": {"demo": {"adult": 15}},
        "keep": "steps",
        "rows": {"lvef": found},
        "options": {"lvef": options},
        "kinds": {"adult": {"phantom"}},
        "data": {"adult": data},
        "resamples": 5,
        "films": {},
        "left_out": (),
        "overlays": {},
        "readings": {},
    }
    return tables.Result(**fields | changes)


def lines(found):
    return list(csv.DictReader(io.StringIO(tables.as_csv(found))))


def test_the_unit_of_a_line_is_that_of_its_score():
    units = {x["score"]: x["unit"] for x in lines(result(cell(cutoffs=[50.0])))}
    assert units == {
        **{"mae": "points", "rmse": "points", "bias": "points"},
        **{"r2": "", "pearson": "", "auroc_below_50": ""},
    }


def test_one_seed_has_no_spread():
    of_demo = [x for x in lines(result(cell())) if x["model"] == "demo"]
    assert {x["seed_sd"] for x in of_demo} == {""}
    mae = next(x for x in lines(result(cell(), seeds=2)) if x["score"] == "mae")
    assert mae["seed_sd"] == "0.0"


def test_latex_shows_every_character_and_breaks_long_tables():
    odd = string.punctuation + tables.DASH + tables.MINUS
    found = tables.as_latex([tables.Table(odd, odd, [odd], [[odd]] * 100)])
    assert found.count(r"\begin{longtable}") == found.count(r"\end{longtable}") == 1
    wide = tables.as_latex([tables.Table("t", "n", ["r", "AUROC of EF < 50"], [])])
    assert "\nr & \\shortstack[l]{AUROC of\\\\EF $<$ 50} \\\\\n" in wide
    (cell,) = {line for line in found.splitlines() if line.startswith("!")}
    shown = cell.removesuffix(r" \\")
    for code, char in (
        *((rf"\text{name}{{}}", c) for name, c in zip(_NAMES, "\\^~", strict=True)),
        *((f"${c}$", c) for c in "<>|"),
        *((f"{{{c}}}", c) for c in "[*"),
        *(("$-$", tables.MINUS), ("--", tables.DASH)),
    ):
        assert shown.count(code) == 1
        shown = shown.replace(code, "")
        odd = odd.replace(char, "")
    assert re.findall(r"\\([&%$#_{}])", shown) == [c for c in odd if c in "&%$#_{}"]
    assert re.sub(r"\\(.)", r"\1", shown) == odd


_NAMES = ("backslash", "asciicircum", "asciitilde")


def data_table(**changes):
    found = tables.tables(result(cell(), data=DATA | changes))
    table = next(table for table in found if table.title == "Data")
    return table.note, dict(zip(table.columns, table.rows[0], strict=True))


def test_the_data_table_says_what_is_known_of_patients_and_names_other_splits():
    note, row = data_table()
    assert note == "No patient is in two splits."
    assert row["files of other splits"] == "0"
    note, row = data_table(without_patient=2, outside={"holdout": 3, "no split": 1})
    assert "The patient of 2 videos of adult is unknown: each of their studies" in note
    assert row["files of other splits"] == "holdout: 3, no split: 1"


def test_a_row_shows_how_many_tokens_its_head_gets():
    """With features.tokens = "steps", a head saw 8 tokens of 512."""
    heads = ("attentive-1", "linear", "mlp", "pca3-linear")
    cells = [cell(variant={"head": head}) for head in heads]
    for keep, most in (("steps", 8), ("all", 512), ("mean", 1)):
        found = result(*cells, keep=keep)
        table = tables.tables(found)[-1]
        column = table.columns.index("tokens for the head")
        seen = [row[column] for row in table.rows if row[1] == "demo"]
        assert seen == [str(most), "1", "1", "1"]
        assert lines(found)[0]["tokens_for_the_head"] == str(most)
