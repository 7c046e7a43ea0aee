"""Labels of MIMIC-IV-Echo's studies from its structured measurements, by rules users may write.

The table has a row per measurement, tens of millions of them, from two reporting systems that call
the same thing by different names. A rule names the measurements that give a target, the best first:

    {"window_days": 2,
     "targets": {"lvef": {"first_of": ["biplane_lvef", "lvef"], "range": [5, 95], "unit": "%"}}}

A study is joined through its measurement_id; where it has none, each rule takes the nearest in time
of its patient's measurements that it can use, at most `window_days` away. Results are texts: "55",
"55 %" and "50-55" (of which the middle is taken) are numbers, ">55" and words are not.
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

from echojepa_jax.utils.errors import UserError

_NEEDED = ("subject_id", "measurement_id", "measurement_datetime", "measurement", "result")
_BLOCK_BYTES = 2**24  # read at a time
_PLAIN = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(?:%|mm\s?hg|cm|ml)?\s*", re.IGNORECASE)
_RANGE = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s*(?:-|to)\s*(\d+(?:\.\d+)?)\s*(?:%|mm\s?hg|cm|ml)?\s*", re.IGNORECASE
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a target is found: the first of these measurements with a number within the range."""

    target: str
    first_of: tuple[str, ...]
    low: float
    high: float
    unit: str


@dataclasses.dataclass(frozen=True)
class Rules:
    """All rules, and how far in time a study may be from measurements that do not name it."""

    targets: tuple[Rule, ...]
    window_days: float

    @property
    def units(self) -> dict[str, str]:
        return {rule.target: rule.unit for rule in self.targets}


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study is joined by: its time in ISO 8601, its measurement's id; "" = unknown."""

    study: str
    patient: str
    time: str
    measurement: str


def read_rules(path: str) -> Rules:
    """Rules from a JSON file; "" stands for those that come with this program.

    Raises:
      UserError: the file cannot be read, or names the field that is wrong.
    """
    path = path or os.path.join(os.path.dirname(__file__), "mimic_iv_echo.json")
    try:
        with open(path, encoding="utf-8") as file:
            text = json.load(file)
        rules = tuple(_rule(target, fields) for target, fields in text["targets"].items())
        return Rules(rules, float(text["window_days"]))
    except OSError as error:
        raise UserError(f"The rules {path} cannot be read: {error.strerror}.") from error
    except KeyError as error:
        raise UserError(f"The rules {path} lack the field {error}.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The rules {path} are wrong: {error}.") from error


def _rule(target: str, fields: Mapping[str, Any]) -> Rule:
    low, high = map(float, fields["range"])
    names = fields["first_of"]
    if not names or not all(isinstance(name, str) for name in names) or not low < high:
        raise ValueError(f"{target}: first_of must name measurements, and range be two numbers")
    return Rule(target, tuple(name.lower() for name in names), low, high, str(fields["unit"]))


def number(text: str) -> float | None:
    """The number that a result states, None if it states none."""
    if match := _PLAIN.fullmatch(text):
        return float(match[1])
    if match := _RANGE.fullmatch(text):
        return (float(match[1]) + float(match[2])) / 2
    return None


def labels(path: str, studies: Sequence[Study], rules: Rules) -> dict[str, dict[str, float]]:
    """The targets of each study that has any; how many each rule gave goes to the log.

    Args:
      path: the table, as CSV or gzipped CSV.

    Raises:
      UserError: it cannot be read, or a column is missing.
    """
    wanted = sorted({name for rule in rules.targets for name in rule.first_of})
    # By measurement: all numbers of each name. By patient: when which measurement was made.
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    times: dict[str, dict[str, str]] = defaultdict(dict)
    seen: Counter[str] = Counter()
    for part in _batches(path, wanted, seen):
        columns = (part.column(name).to_pylist() for name in _NEEDED)
        for patient, measurement, time, name, result in zip(*columns, strict=True):
            value = number(result or "")
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
    _tell(given, len(studies), rules, seen)
    return found


def _batches(path: str, wanted: Sequence[str], seen: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The rows of wanted measurements; `seen` counts the others by name."""
    names = pa.array(wanted)
    try:
        reader = csv.open_csv(
            path,
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=list(_NEEDED),
                column_types=dict.fromkeys(_NEEDED, pa.string()),
                strings_can_be_null=False,
            ),
        )
        with reader:
            for batch in reader:
                name = pc.utf8_lower(batch.column("measurement"))
                for entry in pc.value_counts(name).to_pylist():
                    seen[entry["values"]] += entry["counts"]
                yield batch.filter(pc.is_in(name, value_set=names))
    except OSError as error:
        raise UserError(f"The table {path} cannot be read: {error}.") from error
    except (pa.ArrowException, KeyError) as error:
        raise UserError(
            f"The table {path} cannot be read ({str(error).splitlines()[0]}): it needs the columns "
            f"{', '.join(_NEEDED)}{_found_instead(path)}."
        ) from error


def _found_instead(path: str) -> str:
    """The columns of a table, for an error about it."""
    try:
        with csv.open_csv(path) as reader:
            return f"; it has {', '.join(reader.schema.names)}"
    except (OSError, pa.ArrowException):
        return ""


def _near(study: Study, times: Mapping[str, Mapping[str, str]], rules: Rules) -> list[str]:
    """The measurements of the study's patient that are near in time, the nearest first."""
    when = _time(study.time)
    window = np.timedelta64(round(rules.window_days * 86400), "s")
    made = {name: _time(text) for name, text in times.get(study.patient, {}).items()}
    # What has no time compares as false.
    away = {name: abs(time - when) for name, time in made.items() if abs(time - when) <= window}
    return sorted(away, key=lambda name: (away[name], name))


def _time(text: str) -> np.datetime64:
    try:
        return np.datetime64(text.strip().replace(" ", "T"), "s")
    except ValueError:
        return np.datetime64("NaT", "s")


def _first(values: Mapping[str, Sequence[float]], rule: Rule) -> tuple[str, float] | None:
    """The first measurement of a rule with numbers in range, and their mean."""
    for name in rule.first_of:
        good = [value for value in values.get(name, ()) if rule.low <= value <= rule.high]
        if good:
            return name, sum(good) / len(good)
    return None


def _tell(
    given: Mapping[str, Counter[str]], studies: int, rules: Rules, seen: Counter[str]
) -> None:
    for rule in rules.targets:
        counts = given[rule.target]
        parts = ", ".join(f"{name} {counts[name]:,}" for name in rule.first_of)
        log.info("%s: %d of %d studies (%s)", rule.target, counts.total(), studies, parts)
        if not counts:
            alike = [name for name in seen if any(part in name for part in rule.first_of)]
            alike += [name for name in seen if rule.target in name and name not in alike]
            log.warning(
                "%s: no study has any of these; measurements with such names: %s",
                rule.target,
                ", ".join(sorted(alike)[:10]) or "none",
            )
