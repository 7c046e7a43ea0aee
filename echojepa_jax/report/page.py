"""What both report pages share: how a page is rendered, and the tables that every run has."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from echojepa_jax.report.measures import DASH
from echojepa_jax.utils.files import whole
from echojepa_jax.utils.metrics_writer import read_lines


class Card(NamedTuple):
    """A key number."""

    label: str
    value: str
    note: str = ""


class Refused(NamedTuple):
    """Files that were left out for one reason."""

    stage: str
    kind: str
    reason: str
    files: int
    example: str


def write_page(
    workdir: Path, template: str, values: Mapping[str, Any], file: str = "report.html"
) -> Path:
    """Renders a template of this folder into a file of the workdir and returns its path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("echojepa_jax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(name=workdir.resolve().name, **values)
    path = workdir / file
    with whole(path) as partial:
        # A source may be called by bytes that are no text.
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, an empty one if it is not there."""
    return json.loads(path.read_text()) if path.exists() else {}


def refused_files(workdir: Path) -> list[Refused]:
    """Counts the files in the quarantine lists of all hosts by reason.

    What follows a colon in a reason is a file's detail.
    """
    groups: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    lines = [
        line for path in sorted(workdir.glob("quarantine*.jsonl")) for line in read_lines(path)
    ]
    for line in lines:
        reason, _, detail = line["reason"].partition(": ")
        groups[line["stage"], line["kind"], reason][line["path"]] = detail
    rows = [
        Refused(*group, files=len(details), example=without_folders(next(iter(details.values()))))
        for group, details in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.files)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Rows (dotted name, value) of nested dictionaries."""
    for key, value in tree.items():
        name = f"{prefix}{without_folders(key)}"
        if isinstance(value, Mapping):
            yield from flat(value, name + ".")
        elif isinstance(value, list):
            yield name, ", ".join(without_folders(str(item)) for item in value) or DASH
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, f"{value:,}"
        else:
            yield name, without_folders(str(value)) or DASH


def without_folders(text: str) -> str:
    """Shortens absolute paths: a report is shown to others, and folders may name people."""
    return re.sub(r"(?<![\w./])/(?:[^\s/'\",]+/)+", "…/", text)
