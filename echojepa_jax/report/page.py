"""Shared parts of the pages: rendering, and the tables that every run has."""

import datetime
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
    """A key number, shown at the top of a page."""

    label: str
    value: str
    note: str = ""


class Rejected(NamedTuple):
    """Files that were rejected for one reason."""

    stage: str
    kind: str
    reason: str
    files: int
    example: str


STAGES = {"scan": "before the first step", "decode": "while reading clips"}
KINDS = {"bad": "cannot be used", "still": "single image", "other": "other kind of machine"}

_HEADING = re.compile(r'<h2 id="([^"]+)">([^<]+)</h2>')
_CONTENTS = "<!-- contents -->"  # a mark in base.html.jinja


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
    shared = {"name": workdir.resolve().name, "stages": STAGES, "kinds": KINDS}
    page = environment.get_template(template).render(shared, **values)
    # The headings are known only after the page is rendered.
    links = (f'<a href="#{id_}">{title}</a>' for id_, title in _HEADING.findall(page))
    page = page.replace(_CONTENTS, "\n".join(links), 1)
    path = workdir / file
    with whole(path) as partial:
        # The name of a source may contain bytes that are not text.
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if the file does not exist."""
    return json.loads(path.read_text()) if path.exists() else {}


def about_run(workdir: Path) -> dict[str, Any]:
    """Values for the end of a run's page: facts, everything recorded, and rejected files."""
    manifest = read_json(workdir / "manifest.json")
    return {
        "facts": facts_of(manifest),
        "raw": list(flat(manifest)),
        "config": list(flat(read_json(workdir / "config.json"))),
        "rejected": rejected_files(workdir),
    }


def rejected_files(workdir: Path) -> list[Rejected]:
    """Counts the files in the quarantine lists of all hosts by reason.

    The text after the colon in a reason is a detail of one file.
    """
    groups: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    lines = [
        line for path in sorted(workdir.glob("quarantine*.jsonl")) for line in read_lines(path)
    ]
    for line in lines:
        reason, _, detail = line["reason"].partition(": ")
        groups[line["stage"], line["kind"], reason][line["path"]] = detail
    rows = [
        Rejected(*group, files=len(details), example=without_folders(next(iter(details.values()))))
        for group, details in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.files)


def facts_of(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows (name, value) about a run, from the fields that its manifest.json contains."""
    versions, data = manifest.get("versions", {}), manifest.get("data", {})
    devices, counts = manifest.get("devices", {}), manifest.get("parameters", {})
    software = [
        f"echojepa_jax {manifest['version']}" if "version" in manifest else "",
        f"commit {manifest['commit']}" if "commit" in manifest else "",
        f"JAX {versions['jax']}" if "jax" in versions else "",
    ]
    parameters = [f"{name} {counts[name]:,}" for name in ("encoder", "predictor") if name in counts]
    if "head" in counts:
        encoder = manifest.get("weights", {}).get("parameters")
        parameters = [f"encoder {encoder:,}"] if encoder else []
        parameters.append(f"head {counts['head']:,}")
    rows = {
        "Command": without_folders(manifest.get("command", "")),
        "Started": time_of(manifest["started"]) if "started" in manifest else "",
        "Devices": ", ".join(f"{n} x {_device(kind)}" for kind, n in devices.items()),
        "Software": ", ".join(filter(None, software)),
        "Videos": f"{data['videos']:,}" if "videos" in data else "",
        "Parameters": ", ".join(parameters),
    }
    return [(name, value) for name, value in rows.items() if value]


def _device(kind: str) -> str:
    """A platform and the device's name, such as "gpu NVIDIA H100"; "cpu cpu" becomes "cpu"."""
    return " ".join(dict.fromkeys(kind.split(" ")))


def time_of(text: str) -> str:
    """Converts a time in ISO format to the form "1 March 2026, 10:00 UTC"."""
    time = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


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
