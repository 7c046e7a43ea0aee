"""The tables of a suite as text: Markdown, CSV and LaTeX, and the parts of its report."""

import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.data.units import of_errors
from echojepa_jax.evaluation import published
from echojepa_jax.evaluation.cells import MEASURE, SEGMENTATION
from echojepa_jax.evaluation.data import TRACED, What
from echojepa_jax.evaluation.films import Film
from echojepa_jax.evaluation.fit import head_choice
from echojepa_jax.evaluation.models import Facts
from echojepa_jax.evaluation.overlays import Overlay
from echojepa_jax.evaluation.readings import Reading
from echojepa_jax.evaluation.rows import GUESS, Interval, Row
from echojepa_jax.features.encode import tokens_kept
from echojepa_jax.utils.counts import counted

TITLES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "pearson": "r",
    "bias": "bias",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "auroc_below_50": "AUROC of EF < 50",
    "auroc_below_40": "AUROC of EF < 40",
    "effective_rank": "effective rank",
    "mean_cosine": "mean cosine",
    "variance": "variance",
    "degradation": "mean degradation",
    "dice": "Dice",
    "hd95": "HD95",
    "limit": "limit of Dice",
    "cut_off": "cut off (%)",
}
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts: a heading, a sentence on what it shows, names of columns, rows."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Result:
    """All that the tables of a suite show.

    models: the first one is the one that others are compared with. passes: clips that each model
    has encoded, by `passes_of` a data set. keep: what is kept of a clip's tokens. rows: by task.
    options: of each task. kinds: of the sources of every data set. data: its counts, see
    `suite._counts`. films: of each task, by the first probe of the first model. overlays: masks on
    pictures, by task. left_out: tasks whose data the user does not have. readings: of the first
    probe of each task and model.
    """

    models: Sequence[Facts]
    passes: Mapping[str, Mapping[str, int]]
    keep: str
    rows: Mapping[str, Sequence[Row]]
    options: Mapping[str, ConfigDict]
    kinds: Mapping[str, Set[str]]
    data: Mapping[str, Mapping[str, Any]]
    resamples: int
    films: Mapping[str, Sequence[Film]]
    left_out: Sequence[str]
    overlays: Mapping[str, Sequence[Overlay]]
    readings: Mapping[str, Mapping[str, Reading]]


def passes_of(data: str, what: What) -> str:
    """The name of the clips of a data set: as they are, degraded, or with traced frames."""
    if what is None:
        return data
    return f"{data}: {what}" if isinstance(what, str) else f"{data} {what}"


def number(value: float) -> str:
    """Three or four digits; "–" if it is not defined."""
    if not math.isfinite(value):
        return DASH
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 100 else 0
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def with_interval(value: Interval | None) -> str:
    if value is None:
        return ""
    found, low, high = map(number, value)
    return found if low == DASH else f"{found} ({low} to {high})"


def tables(result: Result) -> list[Table]:
    """All tables: models, data, an overview, and one for each task."""
    return [
        _overview(result),
        _models(result),
        _data(result),
        *(table for task in result.rows for table in _of_task(result, task)),
    ]


def _overview(result: Result) -> Table:
    """The first variant of every task, models below each other."""
    names = [facts.name for facts in result.models] + list(GUESS.values())
    columns, cells = ["model"], {name: [name] for name in names}
    for task, rows in result.rows.items():
        first = [row for row in rows if row.variant == rows[0].variant]
        found = {row.model: row for row in first}
        columns.append(f"{task}: {score_title(first[0], first[0].main)}")
        for name in names:
            row = found.get(name)
            cells[name].append(with_interval(row.values[row.main]) if row else "")
    lines = [cells[name] for name in names if any(cells[name][1:])]
    note = "The first row of each task, with 95 % intervals over patients."
    return Table("Overview", note, columns, lines)


def _models(result: Result) -> Table:
    lines = [
        [
            facts.name,
            facts.about,
            f"{facts.parameters / 1e6:,.2f}",
            f"{facts.clip.frames} x {facts.clip.size} px",
            f"{facts.tokens:,}",
            f"{facts.width:,}",
            f"{facts.flops / 1e9:,.3f}",
            f"{sum(result.passes[facts.name].values()):,}",
            facts.fingerprint[:12],
        ]
        for facts in result.models
    ]
    columns = ["model", "weights", "parameters (M)", "clip", "tokens of a clip", "width"]
    columns += ["GFLOPs of a clip", "clips encoded", "fingerprint"]
    note = "Every clip of a data set, and of each of its degradations, was encoded once."
    return Table("Models", note, columns, lines)


def _data(result: Result) -> Table:
    splits = ("train", "val", "test")
    lines = []
    for name, facts in result.data.items():
        passes = [result.passes[model.name] for model in result.models]
        clean = sorted({found.get(name, 0) for found in passes})
        degraded = sorted(
            {sum(n for k, n in found.items() if k.startswith(f"{name} ")) for found in passes}
        )
        traced = sorted({found.get(passes_of(name, TRACED), 0) for found in passes})
        lines.append(
            [
                name,
                ", ".join(sorted(result.kinds[name])),
                *(f"{facts[split]:,}" for split in splits),
                f"{facts['patients']:,}",
                f"{facts['rejected']:,}",
                ", ".join(f"{split}: {n:,}" for split, n in facts["outside"].items()) or "0",
                " or ".join(f"{n:,}" for n in clean),
                " or ".join(f"{n:,}" for n in degraded),
                " or ".join(f"{n:,}" for n in traced),
                f"{facts['beyond']:,}",
            ]
        )
    columns = ["data", "kind", "training videos", "validation videos", "test videos", "patients"]
    columns += ["rejected files", "files of other splits", "clips per model"]
    columns += ["degraded clips per model", "clips of traced frames per model"]
    columns += ["tracings past the end of their video"]
    note = "No patient is in two splits."
    for name, facts in result.data.items():
        if count := facts["without_patient"]:
            note += (
                f" The patient of {counted(count, 'video')} of {name} is unknown: each of their "
                "studies, or else each video, counts as a patient, and a real one may be in two "
                "splits."
            )
    if result.left_out:
        names = ", ".join(result.left_out)
        note += f" These tasks need other data and were left out: {names}."
    return Table("Data", note, columns, lines)


def score_title(row: Row, name: str) -> str:
    """The name of a score, with its unit."""
    unit = _unit(row, name)
    return f"{TITLES.get(name, name)}{f' ({unit})' if unit else ''}"


def _unit(row: Row, name: str) -> str:
    """The unit of a score; "" for shares, correlations and the like."""
    if name == "cut_off":
        return "%"
    if name not in ("mae", "rmse", "bias", "degradation", "hd95"):
        return ""
    return row.unit if row.kind == MEASURE else of_errors(row.unit)


def _of_task(result: Result, task: str) -> Iterator[Table]:
    """A table for each kind of numbers; measures of predictions belong to these."""
    groups: list[list[Row]] = []
    for row in result.rows[task]:
        if not groups or row.kind not in (groups[-1][0].kind, MEASURE):
            groups.append([])
        groups[-1].append(row)
    for rows in groups:
        title = task if rows is groups[0] else f"{task}: {TITLES[rows[0].main]}"
        yield _of_rows(result, task, rows, title)


def _of_rows(result: Result, task: str, rows: Sequence[Row], title: str) -> Table:
    """One table: variants, and in each of them every model, the guess and the paper's models."""
    options = result.options[task]
    first, score = rows[0].main, score_title(rows[0], rows[0].main)
    shown = [field for field in rows[0].variant if len({row.variant[field] for row in rows}) > 1]
    others = [name for name in rows[0].values if name != first]
    changes = any(row.change for row in rows)
    columns = [*shown, "model", "tokens for the head", score, "difference from first model"]
    columns += ["change"] * changes + [TITLES.get(name, name) for name in others]
    columns += ["SD over seeds", "scored", "not scored"]
    columns += ["not found"] * any(row.failed for row in rows)
    if rows[0].kind == MEASURE:
        columns = [c for c in columns if not c.startswith(("difference", "SD", "scored"))]
    lines = []
    last = None
    for row in [*rows, None]:
        if last is not None and (row is None or row.variant != last.variant):
            for model, value in published.numbers(options, result.kinds, last.variant).items():
                theirs = {name: last.variant[name] for name in shown}
                theirs |= {"model": published.named(model), score: number(value)}
                lines.append([theirs.get(name, "") for name in columns])
        if row is None:
            break
        last = row
        main = with_interval(row.values[row.main]) + " %" * (row.main == "degradation")
        cells = {name: row.variant[name] for name in shown} | {
            "model": row.model,
            "tokens for the head": f"{seen:,}" if (seen := _seen(result, row)) else "",
            score: main,
            "difference from first model": with_interval(row.difference),
            "change": with_interval(row.change),
            "SD over seeds": number(row.spread) if math.isfinite(row.spread) else "",
            "scored": f"{row.examples:,} from {counted(row.patients, 'patient')}",
            "not scored": f"{row.not_scored:,}",
            "not found": f"{row.failed:,}",
        }
        cells |= {
            TITLES.get(name, name): number(row.values[name][0])
            for name in others
            if name in row.values
        }
        lines.append([cells.get(name, "") for name in columns])
    return Table(title, _note(result, task, rows), columns, lines)


def _seen(result: Result, row: Row) -> int:
    """Tokens of a clip, or of a frame in segmentation, that the head gets; 0 if there is no model.

    A head without attention gets their mean, and so do the measures of a task without a head.
    """
    options = result.options[row.task]
    model = next((model for model in result.models if model.name == row.model), None)
    if model is None:
        return 0
    if options.kind == SEGMENTATION:
        return model.places
    head = row.variant.get("head") or options.get("head")
    if not head or head_choice(head).averages:
        return 1
    return tokens_kept(result.keep, model.tokens, model.times)


def _note(result: Result, task: str, rows: Sequence[Row]) -> str:
    options = result.options[task]
    constant = [
        f"{name} = {value}"
        for name, value in rows[0].variant.items()
        if value and all(row.variant.get(name) == value for row in rows)
    ]
    told = [f"Kind of task: {options.kind}.", f"Data: {options.data}."]
    if "target" in options:
        told.append(f"Target: {options.target}.")
    if rows[0].kind == SEGMENTATION:
        told.append(
            "Means over traced frames. Tokens are those of a frame; pca is fitted on their pixels. "
            "The limit is the Dice of the true masks at the resolution of tokens. Cut off is the "
            "part of the traced area that is not in the clip."
        )
    elif options.kind == SEGMENTATION:
        told.append(
            "Ejection fraction from the LV masks, by disc summation in one plane. Videos in which "
            "a model finds no LV at end diastole are scored for no model; `not found` counts them."
        )
    if constant:
        told.append(f"All rows: {', '.join(constant)}.")
    if options.kind == "geometry":
        told.append("Nothing is trained, so there are no seeds.")
    if rows[0].kind != MEASURE:
        seeds = rows[0].seeds
        told.append(
            f"Means over {seeds} seeds of the probe; " if seeds > 1 else "One seed of the probe; "
        )
        told[-1] += (
            f"95 % intervals from {result.resamples:,} resamples of patients. The probe was chosen "
            "on validation, and the test split was scored once."
        )
    return " ".join(told)


# --- formats --------------------------------------------------------------------------------------


def as_markdown(found: Sequence[Table]) -> str:
    lines = ["# Evaluation"]
    for table in found:
        lines += ["", f"## {table.title}", "", table.note, ""]
        lines.append("| " + " | ".join(table.columns) + " |")
        lines.append("|" + " --- |" * len(table.columns))
        lines += [
            "| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in table.rows
        ]
    return "\n".join(lines) + "\n"


_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {c: f"${c}$" for c in "<>|"}
    | {c: f"{{{c}}}" for c in "[*"}  # after the end of a row, they would belong to it
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {MINUS: "$-$", DASH: "--"}
)


def as_latex(found: Sequence[Table]) -> str:
    """Tables for a paper, with the commands of the packages booktabs and longtable.

    They are as long as they need to be: a float of a hundred rows would leave the page. Small type
    and names of columns over several lines keep the widest ones on a page in landscape.
    """
    lines = [
        r"% Needs \usepackage{booktabs,longtable}. All tables fit on",
        r"% \usepackage[a3paper,landscape,margin=15mm]{geometry}, most of them also on a4paper.",
        r"\begingroup\scriptsize\setlength{\tabcolsep}{2pt}\setlength{\LTcapwidth}{\textwidth}",
    ]
    for table in found:
        lines += [
            "",
            rf"\begin{{longtable}}{{{'l' * len(table.columns)}}}",
            rf"\caption{{{table.title.translate(_TEX)}. {table.note.translate(_TEX)}}} \\",
            r"\toprule",
            " & ".join(map(_stacked, table.columns)) + r" \\",
            r"\midrule",
            r"\endhead",
            *(" & ".join(cell.translate(_TEX) for cell in row) + r" \\" for row in table.rows),
            r"\bottomrule",
            r"\end{longtable}",
        ]
    return "\n".join([*lines, "", r"\endgroup"]) + "\n"


def _stacked(name: str) -> str:
    """The name of a column for LaTeX, in lines of a few words."""
    lines = textwrap.wrap(name, 9, break_long_words=False, break_on_hyphens=False)
    stacked = r"\\".join(line.translate(_TEX) for line in lines)
    return rf"\shortstack[l]{{{stacked}}}" if len(lines) > 1 else stacked


_CSV = (
    *("task", "variant", "model", "score", "unit", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "change", "change_low", "change_high"),
    *("seed_sd", "examples", "patients", "not_scored", "failed", "seeds"),
    *("tokens_of_a_clip", "flops_of_a_clip", "tokens_for_the_head"),
)


def as_csv(result: Result) -> str:
    """Every score as a line, with all digits, and after a task's lines the paper's numbers."""
    facts = {model.name: model for model in result.models}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV)
    for task, rows in result.rows.items():
        theirs: dict[tuple[str, str], float] = {}
        for row in rows:
            variant = "; ".join(f"{k}={v}" for k, v in row.variant.items() if v)
            found = published.numbers(result.options[task], result.kinds, row.variant)
            theirs |= {(variant, published.named(model)): x for model, x in found.items()}
            for name, value in row.values.items():
                is_main = name == row.main
                model = facts.get(row.model)
                numbers = [
                    *value,
                    *_three(row.difference if is_main else None),
                    *_three(row.change if is_main else None),
                    row.spread if is_main else math.nan,
                ]
                told = [repr(x) if math.isfinite(x) else "" for x in numbers]
                writer.writerow(
                    [
                        row.task,
                        variant,
                        row.model,
                        name,
                        _unit(row, name),
                        *told,
                        row.examples,
                        row.patients,
                        row.not_scored,
                        row.failed,
                        row.seeds,
                        model.tokens if model else "",
                        repr(model.flops) if model else "",
                        _seen(result, row) or "",
                    ]
                )
        for key, x in theirs.items():
            told = [task, *key, "mae", of_errors("%"), repr(x)]
            writer.writerow([*told, *[""] * (len(_CSV) - len(told))])
    return text.getvalue()


def _three(value: Interval | None) -> Iterator[float]:
    yield from value or (math.nan,) * 3
