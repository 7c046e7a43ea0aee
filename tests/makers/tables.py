"""CSV tables, and files with a JSON object on each line."""

import csv
import json
from pathlib import Path
from typing import Any


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, found: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, list(found[0]), restval="")
        writer.writeheader()
        writer.writerows(found)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
