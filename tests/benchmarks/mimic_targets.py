"""Measures time and memory of reading labels from a generated table of MIMIC-IV-Echo's size.

  python -m tests.benchmarks.mimic_targets --rows=28000000

649 names, 7,243 studies; every hundredth row is a measurement that a rule uses.
"""

import argparse
import logging
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from echojepa_jax.data.sources import mimic_targets
from echojepa_jax.data.sources.mimic_targets import Study

STUDIES = 7243
WANTED = ("lvef", "lvef_upper", "biplane_lvef", "lvef_3d", "tr_mmhg", "rvsp")


def write(path: Path, rows: int) -> None:
    """Writes the table in parts, to save memory."""
    rng = np.random.default_rng(0)
    names = np.array([*WANTED, *(f"measurement_{k}" for k in range(643))])
    writer = None
    for first in range(0, rows, 2**20):
        count = min(2**20, rows - first)
        study = rng.integers(0, STUDIES, count)
        kind = np.where(rng.random(count) < 0.01, rng.integers(0, 6, count), 6 + study % 643)
        table = pa.table(
            {
                "subject_id": (10_000_000 + study // 2).astype(str),
                "measurement_id": (9_000_000 + study).astype(str),
                "measurement_datetime": np.char.add("2150-01-01 10:00:", (study % 60).astype(str)),
                "test_type": np.full(count, "TTE"),
                "measurement": names[kind],
                "measurement_description": np.full(count, "described at some length, as they are"),
                "result": np.round(rng.uniform(20, 70, count), 1).astype(str),
                "unit": np.full(count, "%"),
            }
        )
        writer = writer or csv.CSVWriter(str(path), table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=28_000_000)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "structured-measurement.csv"
        write(path, options.rows)
        size = path.stat().st_size / 1e9
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        started = time.perf_counter()
        studies = [
            Study(str(k), str(10_000_000 + k // 2), "2150-01-01 10:00:00", str(9_000_000 + k))
            for k in range(STUDIES)
        ]
        found = mimic_targets.labels(str(path), studies, mimic_targets.read_rules(""))
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.rows:,} rows, {size:.2f} GB: {seconds:.0f} s, peak memory {peak:.2f} GiB "
        f"({before:.2f} GiB before), {len(found)} studies with labels"
    )


if __name__ == "__main__":
    main()
