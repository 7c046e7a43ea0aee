"""Labels of the studies of MIMIC-IV-Echo from its structured measurements, by rules.

The table has tens of millions of rows, one per measurement, from two reporting systems with
different names for the same measurement. Users may write their own rules. A rule names the
measurements that give a target, the best first:

    {"window_days": 2,
     "targets": {"lvef": {"first_of": ["biplane_lvef", ["lvef", "lvef_upper"]],
                          "range": [5, 95], "unit": "%"}}}

Names in an inner list are the two ends of a range: the target is their mean, or the one that
exists. "test_types": ["tte"] beside "targets" restricts the rules to rows of these types.

A study is joined by its measurement_id. If it has none, each rule uses the patient's nearest usable
measurement in time, at most `window_days` away. Results are texts: "55", "55 %" and "50-55" (its
middle) count as numbers; ">55" and words do not.
"""

import dataclasses
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from echojepa_jax.data.sources.tables import is_missing
from echojepa_jax.utils.errors import UserError, first_line

_NEEDED = ("subject_id", "measurement_id", "measurement_datetime", "measurement", "result")
_TYPE, _UNIT = "test_type", "unit"  # optional columns
_BLOCK_BYTES = 2**24  # bytes read at once
_EXAMPLE = 20  # characters of a result that a warning quotes
_NUMBER, _AFTER = r"(\d+(?:\.\d*)?)", r"\s*(?:%|mm\s?hg|cm|ml)?\s*"
_PLAIN = re.compile(rf"\s*(-?{_NUMBER}){_AFTER}", re.IGNORECASE)
_RANGE = re.compile(
    rf"\s*{_NUMBER}\s*%?\s*(?:[-\u2013\u2014]|to)\s*{_NUMBER}{_AFTER}", re.IGNORECASE
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to find a target: the first of these measurements with a number in the range.

    first_of: groups of names of measurements; the value is the mean over a group.
    low, high: the range of plausible values, in `unit`.
    """

    target: str
    first_of: tuple[tuple[str, ...], ...]
    low: float
    high: float
    unit: str


@dataclasses.dataclass(frozen=True)
class Rules:
    """All rules.

    window_days: the largest distance in time between a study and its measurements.
    test_types: types of the rows to use, in lower case; () = all.
    """

    targets: tuple[Rule, ...]
    window_days: float
    test_types: tuple[str, ...] = ()

    @property
    def units(self) -> dict[str, str]:
        return {rule.target: rule.unit for rule in self.targets}


@dataclasses.dataclass(frozen=True)
class Study:
    """The facts that join a study to measurements; "" = unknown.

    time: in ISO 8601. measurement: the id of the study's measurement.
    """

    study: str
    patient: str
    time: str
    measurement: str


def read_rules(path: str) -> Rules:
    """Reads rules from a JSON file; "" = the rules that come with this program.

    Raises:
      UserError: the file cannot be read, or a field is missing or wrong.
    """
    path = path or os.path.join(os.path.dirname(__file__), "mimic_iv_echo.json")
    try:
        with open(path, encoding="utf-8") as file:
            text = json.load(file)
        rules = tuple(_rule(target, fields) for target, fields in text["targets"].items())
        types = text.get("test_types", [])
        if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
            raise ValueError("test_types must be a list of texts")
        types = tuple(kind.lower() for kind in types)
        return Rules(rules, float(text["window_days"]), types)
    except OSError as error:
        raise UserError(
            f"the rules {path} cannot be read ({error.strerror}): check ',rules='"
        ) from error
    except KeyError as error:
        raise UserError(f"the rules {path} lack the field {error}: add it") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the rules {path} are wrong: {error}") from error


def _rule(target: str, fields: Mapping[str, Any]) -> Rule:
    low, high = map(float, fields["range"])
    groups = [[entry] if isinstance(entry, str) else entry for entry in fields["first_of"]]
    named = all(group and all(isinstance(name, str) for name in group) for group in groups)
    if not groups or not named or not low < high:
        raise ValueError(
            f"{target}: first_of must name measurements, and range must be two ascending numbers"
        )
    first_of = tuple(tuple(name.lower() for name in group) for group in groups)
    return Rule(target, first_of, low, high, str(fields["unit"]))


def number(text: str) -> float | None:
    """The number in the text of a result; None if it contains none."""
    if match := _PLAIN.fullmatch(text):
        return float(match[1])
    if match := _RANGE.fullmatch(text):
        return (float(match[1]) + float(match[2])) / 2
    return None


def labels(path: str, studies: Sequence[Study], rules: Rules) -> dict[str, dict[str, float]]:
    """The targets of each study that has any; logs how many studies each rule found.

    Args:
      path: the table, a CSV file or a gzipped one.

    Raises:
      UserError: the table cannot be read, or a column is missing.
    """
    wanted = sorted({name for rule in rules.targets for group in rule.first_of for name in group})
    # By measurement id: all numbers of each name. By patient: the time of each measurement id.
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    times: dict[str, dict[str, str]] = defaultdict(dict)
    seen: Counter[str] = Counter()
    units: dict[str, Counter[str]] = defaultdict(Counter)
    words: dict[str, Counter[str]] = defaultdict(Counter)  # results without a number
    for part in _batches(path, wanted, rules.test_types, seen):
        if _UNIT in part.schema.names:
            columns = (part.column(name).to_pylist() for name in ("measurement", _UNIT))
            for name, unit in zip(*columns, strict=True):
                units[name.lower()][unit.strip()] += 1
        columns = (part.column(name).to_pylist() for name in _NEEDED)
        for patient, measurement, time, name, result in zip(*columns, strict=True):
            value = number(result or "")
            if value is None and not is_missing((result or "").strip()):
                words[name.lower()][result.strip()] += 1
            if value is not None and measurement:
                values[measurement][name.lower()].append(value)
                times[patient][measurement] = time or ""
    found: dict[str, dict[str, float]] = {}
    given: dict[str, Counter[str]] = {rule.target: Counter() for rule in rules.targets}
    for study in studies:
        joined = [study.measurement] if study.measurement else _near(study, times, rules)
        for rule in rules.targets:
            matches = (_first(values.get(measurement, {}), rule) for measurement in joined)
            if match := next(filter(None, matches), None):
                name, value = match
                found.setdefault(study.study, {})[rule.target] = value
                given[rule.target][name] += 1
    _log_found(given, len(studies), rules, seen)
    for name, texts in words.items():
        examples = ", ".join(repr(text[:_EXAMPLE]) for text, _ in texts.most_common(3))
        log.warning("%s: %d results are not numbers, such as %s", name, texts.total(), examples)
    for name, counts in units.items():
        if len(set(counts) - {""}) > 1:
            log.warning(
                "%s has several units, which the rules treat as one: %s", name, dict(counts)
            )
    return found


def _batches(
    path: str, wanted: Sequence[str], types: Sequence[str], seen: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of the wanted measurements and test types; counts all rows by name in `seen`.

    Raises:
      UserError: the table cannot be read, or a column is missing.
    """
    names = pa.array(wanted)
    present = _columns(path)
    needed = [*_NEEDED, *([_TYPE] if types else ())]
    if lacking := [column for column in needed if column not in present]:
        raise UserError(
            f"the table {path} lacks the columns {', '.join(lacking)}; it has {', '.join(present)}"
        )
    columns = [*needed, *([_UNIT] if _UNIT in present else ())]
    try:
        reader = csv.open_csv(
            path,
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=columns,
                # Read as bytes, because one invalid character in a free text must not be an error.
                column_types=dict.fromkeys(columns, pa.binary()),
                strings_can_be_null=False,
            ),
        )
        with reader:
            for raw in reader:
                batch = _as_text(raw)
                name = pc.utf8_lower(batch.column("measurement"))
                for entry in pc.value_counts(name).to_pylist():
                    seen[entry["values"]] += entry["counts"]
                keep = pc.is_in(name, value_set=names)
                if types:
                    kind = pc.utf8_lower(batch.column(_TYPE))
                    keep = pc.and_(keep, pc.is_in(kind, value_set=pa.array(types)))
                yield batch.filter(keep)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"the table {path} cannot be read ({first_line(error)}): copy it again"
        ) from error


def _as_text(raw: pa.RecordBatch) -> pa.RecordBatch:
    """Decodes columns of bytes; invalid UTF-8 becomes the replacement character."""

    def text(column: pa.Array) -> pa.Array:
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return pa.array([entry.decode("utf-8", "replace") for entry in column.to_pylist()])

    return pa.RecordBatch.from_arrays([text(c) for c in raw.columns], names=raw.schema.names)


def _columns(path: str) -> list[str]:
    """The columns of a table.

    Raises:
      UserError: the table cannot be read.
    """
    try:
        with csv.open_csv(path) as reader:
            return list(reader.schema.names)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"the table {path} cannot be read ({first_line(error)}): copy it again"
        ) from error


def _near(study: Study, times: Mapping[str, Mapping[str, str]], rules: Rules) -> list[str]:
    """The patient's measurements within the time window of the study, the nearest first."""
    when = _time(study.time)
    window = np.timedelta64(round(rules.window_days * 86400), "s")
    made = {name: _time(text) for name, text in times.get(study.patient, {}).items()}
    # A measurement without a time (NaT) compares as false.
    away = {name: abs(time - when) for name, time in made.items() if abs(time - when) <= window}
    return sorted(away, key=lambda name: (away[name], name))


def _time(text: str) -> np.datetime64:
    try:
        return np.datetime64(text.strip().replace(" ", "T"), "s")
    except ValueError:
        return np.datetime64("NaT", "s")


def _first(values: Mapping[str, Sequence[float]], rule: Rule) -> tuple[str, float] | None:
    """The first group of a rule with numbers in the range, and the mean of these numbers."""
    for group in rule.first_of:
        means = []
        for name in group:
            good = [value for value in values.get(name, ()) if rule.low <= value <= rule.high]
            means += [sum(good) / len(good)] if good else []
        if means:
            return _group_name(group), sum(means) / len(means)
    return None


def _group_name(group: Sequence[str]) -> str:
    return "+".join(group)


def _log_found(
    given: Mapping[str, Counter[str]], studies: int, rules: Rules, seen: Counter[str]
) -> None:
    for rule in rules.targets:
        counts = given[rule.target]
        parts = ", ".join(f"{_group_name(g)} {counts[_group_name(g)]:,}" for g in rule.first_of)
        log.info("%s: %d of %d studies (%s)", rule.target, counts.total(), studies, parts)
        if not counts:
            parts_of_names = [name for group in rule.first_of for name in group]
            alike = [name for name in seen if any(part in name for part in parts_of_names)]
            alike += [name for name in seen if rule.target in name and name not in alike]
            log.warning(
                "%s: no study has any of these measurements; measurements with similar names: %s",
                rule.target,
                ", ".join(sorted(alike)[:10]) or "none",
            )
