"""Trains demo configs with several seeds, and compares their online probes.

  python -m tests.benchmarks.demos --out=docs/results/demos.json

To choose a field, compare some values of it on the validation patients, never on the test:

  python -m tests.benchmarks.demos --configs=demo,demo_mae --seeds=1 \
    --vary=optim.peak_lr=5e-4,1.5e-3,5e-3 --config.probe.test_split=val

A seed changes the initial weights, the order of the videos, crops and masks; the data set and its
split stay. Each run takes about 5 minutes on two idle cores. Runs that are complete are not made
again: give the same --runs folder.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from echojepa_jax.utils.files import write_json

CONFIGS = ("demo", "demo_v21", "demo_mae")
ERROR, ACCURACY = "mae", "accuracy"


def trained(config: str, seed: int, value: str, runs: Path, fields: Sequence[str]) -> dict:
    """Scores of one run: after training, and with its initial weights.

    Args:
      value: what `fields` vary, for names; "" = nothing.
    """
    name = f"{config}_{value}" if value else config
    workdir = runs / f"{name}_{seed}"
    subprocess.run(
        [
            *(sys.executable, "-m", "echojepa_jax.main"),
            *(f"--config=configs/{config}.py", f"--workdir={workdir}", f"--config.seed={seed}"),
            *fields,
        ],
        check=True,
    )
    probe = json.loads((workdir / "probe.json").read_text())
    ef, view = probe["regression"]["ef"], probe["view"]
    return {
        "config": name,
        "seed": seed,
        "error": ef[ERROR],
        "error_init": ef[f"{ERROR}_init"],
        "accuracy": view[ACCURACY],
        "accuracy_init": view[f"{ACCURACY}_init"],
    }


def summary(rows: Sequence[dict]) -> list[str]:
    """A Markdown table: each seed's number, in the order of the seeds, and their mean."""
    lines = [
        "| config | view accuracy, random weights | trained | EF error, random weights | trained |",
        "|---|---|---|---|---|",
    ]
    for config in dict.fromkeys(row["config"] for row in rows):
        of_config = [row for row in rows if row["config"] == config]
        cells = []
        for name, digits in (("accuracy", 3), ("error", 2)):
            for key in (f"{name}_init", name):
                values = [row[key] for row in of_config]
                each = ", ".join(f"{value:.{digits}f}" for value in values)
                cells.append(f"**{np.mean(values):.{digits}f}** ({each})")
        lines.append(f"| `{config}` | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--vary", default="=", help="a field and its values: FIELD=VALUE,VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/demos"))
    parser.add_argument("--out", type=Path)
    given, fields = parser.parse_known_args()  # the rest are fields of the config
    varied, _, values = given.vary.partition("=")
    rows = [
        trained(config, seed, value, given.runs, [*fields, *own])
        for seed in range(given.seeds)
        for config in given.configs.split(",")
        for value in values.split(",")
        for own in [[f"--config.{varied}={value}"] if value else []]
    ]
    print("\n".join(summary(rows)))
    if given.out:
        write_json(given.out, {"fields": fields, "runs": rows})


if __name__ == "__main__":
    main()
