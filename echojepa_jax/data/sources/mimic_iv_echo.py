"""MIMIC-IV-Echo: DICOM files listed in `echo-record-list.csv`; labels from structured measurements.

"mimic_iv_echo:/data/mimic-iv-echo,rules=my_rules.json,views=echoview.csv": the rules for labels
(see mimic_targets.py) and the table of views are optional. With ",without_view=skip", files that
the table of views lacks are not listed. The set has no splits; preparation makes them.
"""

import logging
import os

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import mimic_targets
from echojepa_jax.data.sources.options import split_options
from echojepa_jax.data.sources.tables import is_missing, read_rows
from echojepa_jax.utils.errors import UserError

log = logging.getLogger(__name__)

_RECORDS, _STUDIES = "echo-record-list.csv", "echo-study-list.csv"
# Copies of the set use either spelling.
_MEASUREMENTS = [
    f"structured{dash}measurement{kind}" for dash in "-_" for kind in (".csv", ".csv.gz")
]
_FILE_COLUMNS = ("dicom_filepath", "path", "file")


def read(path: str, source: str) -> list[Sample]:
    """One sample per listed DICOM file, even if the file is missing.

    Raises:
      UserError: a table or a column is missing, or the rules are wrong.
    """
    known = {"rules": "", "views": "", "without_view": "keep"}
    path, options = split_options(path, known, source)
    keep_all = options["without_view"] == "keep"
    if not keep_all and (options["without_view"] != "skip" or not options["views"]):
        raise UserError(
            f"source {source!r}: 'without_view' must be keep, or skip together with ',views='"
        )
    root = os.path.abspath(os.path.expanduser(path))
    table = os.path.join(root, _RECORDS)
    rows = read_rows(table, required=["subject_id", "study_id", "dicom_filepath"])
    rules = mimic_targets.read_rules(os.path.expanduser(options["rules"]))
    labels = _labels(root, rules, options["rules"])
    views = _views(options["views"])
    names = {os.path.splitext(os.path.basename(row["dicom_filepath"]))[0] for _, row in rows}
    if views and not views.keys() & names:
        raise UserError(
            f"{options['views']} contains none of the {len(rows)} files of {table}: check that it "
            "belongs to this set"
        )
    if views:
        log.info("%s: %d of %d files have a view", source, len(views.keys() & names), len(names))
    samples = []
    for line, row in rows:
        file = row["dicom_filepath"]
        if not file:
            raise UserError(f"{table}: column 'dicom_filepath' is empty in line {line}; fill it in")
        name = os.path.splitext(os.path.basename(file))[0]
        if ".." in file.split("/"):
            name = file  # preparation rejects names that lead out of the data set's folder
        if name not in views and not keep_all:
            continue
        samples.append(
            Sample(
                name=name,
                path=os.path.normpath(os.path.join(root, file)),
                source=source,
                patient=row["subject_id"],
                study=row["study_id"],
                view=views.get(name, ""),
                targets=labels.get(row["study_id"], {}),
                units=rules.units,
            )
        )
    return samples


def _labels(root: str, rules: mimic_targets.Rules, named: str) -> dict[str, dict[str, float]]:
    """The targets of each study; empty if the table of measurements is missing.

    Raises:
      UserError: the table is missing, but the source names rules; or it cannot be read.
    """
    present = [name for name in _MEASUREMENTS if os.path.exists(os.path.join(root, name))]
    if not present:
        if named:
            raise UserError(
                f"{os.path.join(root, _MEASUREMENTS[0])} is missing, but the source names rules "
                "for it: copy the table there, or remove ',rules='"
            )
        return {}
    columns = ["subject_id", "study_id", "study_datetime"]
    studies = [
        mimic_targets.Study(
            study=row["study_id"],
            patient=row["subject_id"],
            time=row["study_datetime"],
            # Tables with missing ids may contain ids as floating-point numbers: "900.0".
            measurement=_id(row.get("measurement_id", "")),
        )
        for _, row in read_rows(os.path.join(root, _STUDIES), required=columns)
    ]
    return mimic_targets.labels(os.path.join(root, present[0]), studies, rules)


def _id(text: str) -> str:
    return "" if is_missing(text) else text.removesuffix(".0")


def _views(path: str) -> dict[str, str]:
    """The view of each file by its name, from a table such as that of ECHOVIEW."""
    if not path:
        return {}
    table = os.path.abspath(os.path.expanduser(path))
    rows = read_rows(table, required=["view"])
    column = next((name for name in _FILE_COLUMNS if rows and name in rows[0][1]), None)
    if column is None:
        raise UserError(
            f"{table} has no column with file names: add one of {', '.join(_FILE_COLUMNS)}"
        )
    return {os.path.splitext(os.path.basename(row[column]))[0]: row["view"] for _, row in rows}
