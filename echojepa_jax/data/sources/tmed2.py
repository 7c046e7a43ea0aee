"""TMED-2: PNG stills with their view and the severity of aortic stenosis.

Splits are in tables of the set: "tmed2:/data/TMED2,table=DEV479/TMED2_fold0_labeledpart.csv" uses
the column of that table whose name begins with the task and ends in "split". The task is "view"
unless another one is given, as in ",task=diagnosis".
"""

import logging
import os
import re
from collections import defaultdict

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.options import split_options
from echojepa_jax.data.sources.tables import read_rows
from echojepa_jax.utils.errors import UserError

_LABELS = "labels_per_image.csv"
# 0 = none, 1 = early, 2 = significant, as the authors of the set group the grades.
STENOSIS = {
    "no_as": 0.0,
    "mild_as": 1.0,
    "mildtomod_as": 1.0,
    "mildtomoderate_as": 1.0,
    "moderate_as": 2.0,
    "modtosevere_as": 2.0,
    "severe_as": 2.0,
}
log = logging.getLogger(__name__)

_UNKNOWN = {"", "not_provided", "unknown", "na", "nan"}


def read(path: str, source: str) -> list[Sample]:
    """One sample per labelled picture, even if its file is missing.

    Raises:
      UserError: a table or a column is missing, or a diagnosis is unknown.
    """
    path, options = split_options(path, {"table": "", "task": "view"}, source)
    root = os.path.abspath(os.path.expanduser(path))
    table = os.path.join(root, _LABELS)
    rows = read_rows(table, required=["query_key", "view_label", "diagnosis_label"])
    files = _pictures(root)
    splits = _splits(root, options)
    found = sum(_stem(row["query_key"]) in splits for _, row in rows)
    if options["table"] and not found:
        raise UserError(
            f"{options['table']} has no split for any of the {len(rows)} pictures of {table}: "
            "check that both tables use the same 'query_key'"
        )
    if options["table"]:
        log.info("%s: %d of %d pictures have a split", source, found, len(rows))
    return [
        Sample(
            name=row["query_key"],
            path=_picture(files, row, root, f"line {line} of {table}"),
            source=source,
            patient=_patient(row["query_key"]),
            study=row["query_key"].rpartition("_")[0],
            view="" if row["view_label"].lower() in _UNKNOWN else row["view_label"],
            split=splits.get(_stem(row["query_key"]), ""),
            targets=_targets(row["diagnosis_label"], f"line {line} of {table}"),
            units={"stenosis": "grade"},
            still=True,
        )
        for line, row in rows
    ]


def _pictures(root: str) -> dict[str, list[str]]:
    """All PNG files below the folder, by their stems."""
    files: dict[str, list[str]] = defaultdict(list)
    for folder, _, names in os.walk(root):
        for name in names:
            if name.lower().endswith(".png"):
                files[_stem(name)].append(os.path.join(folder, name))
    return files


def _picture(files: dict[str, list[str]], row: dict[str, str], root: str, where: str) -> str:
    """The file of a row; of several files with its name, the one in the folder that the row names.

    Raises:
      UserError: several files fit.
    """
    inner = row.get("SourceFolder", "").strip("/")
    found = files.get(_stem(row["query_key"]), [os.path.join(root, row["query_key"])])
    named = [f for f in found if inner and os.path.dirname(f).endswith(f"/{inner}")] or found
    if len(named) > 1:
        raise UserError(
            f"{where} fits {len(named)} files ({', '.join(sorted(named))}): name its folder in a "
            "column 'SourceFolder'"
        )
    return named[0]


def _stem(key: str) -> str:
    """A picture's name without ".png", which some tables include."""
    return os.path.splitext(key)[0]


def _splits(root: str, options: dict[str, str]) -> dict[str, str]:
    if not options["table"]:
        return {}
    table = os.path.join(root, options["table"])
    rows = read_rows(table, required=["query_key"])
    columns = [name for name in (rows[0][1] if rows else ()) if name.lower().endswith("split")]
    chosen = [name for name in columns if name.lower().startswith(options["task"])]
    if len(chosen) != 1:
        raise UserError(
            f"{table} must have exactly one column of splits for task={options['task']}; its "
            f"columns that end in 'split' are: {', '.join(columns) or 'none'}"
        )
    return {_stem(row["query_key"]): row[chosen[0]].lower() for _, row in rows}


def _patient(key: str) -> str:
    """The patient in a picture's name, which is PATIENTsSTUDY_NUMBER.png."""
    match = re.match(r"(\d+)s\d+_", key)
    return match[1] if match else _stem(key)


def _targets(diagnosis: str, where: str) -> dict[str, float]:
    text = diagnosis.lower()
    if text in _UNKNOWN:
        return {}
    if text not in STENOSIS:
        known = ", ".join(STENOSIS)
        raise UserError(f"{where}: column 'diagnosis_label' is {diagnosis!r}; use one of {known}")
    return {"stenosis": STENOSIS[text]}
