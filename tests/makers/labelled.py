"""Labelled videos with features that are made up, for tasks of the evaluation suite."""

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.sample import Sample
from echojepa_jax.evaluation.data import Data
from echojepa_jax.probes.predict import Features

VIEWS = ("A2C", "A4C", "PLAX")
SPLITS = ("train", "val", "test")
WIDTH = 6


def probe_config(**changes) -> ConfigDict:
    """The section `probe` of a suite's config, small."""
    fields = {
        "learning_rates": (3e-2, 1e-2),
        "attentive_rates": (1e-2,),
        "mask_rates": (1e-1,),
        "weight_decays": (0.01,),
        "standardise": True,
        "epochs": 6,
        "batch": 6,
        "heads": 2,
        "hidden": 8,
    }
    return ConfigDict(fields | changes)


def samples_of(patients: int, name: str = "adult") -> list[Sample]:
    """Two of three views of each patient; six in ten are of training."""
    rng = np.random.default_rng(0)
    found = []
    for patient in range(patients):
        ef = 35.7 + 30 * float(rng.random())
        split = SPLITS[max(0, patient % 10 - 7)]
        for view in np.take(VIEWS, (patient, patient + 1), mode="wrap"):
            found.append(
                Sample(
                    name=f"{name}{patient}-{view}",
                    path=f"/nowhere/{name}{patient}-{view}.avi",
                    source=f"phantom:{name}",
                    patient=f"{name}{patient}",
                    study=f"{name}{patient}",
                    view=str(view),
                    split=split,
                    targets={"ef": ef},
                    frames=20,
                    fps=10.0,
                    units={"ef": "%"},
                )
            )
    return found


def features_of(samples: list[Sample], rows: list[int] | None = None, noise: float = 0.1):
    """Tokens that tell EF and view apart, of the samples `rows`; two of a clip."""
    rows = list(range(len(samples))) if rows is None else rows
    rng = np.random.default_rng(1)
    tokens = noise * rng.standard_normal((len(samples), 2, WIDTH)).astype(np.float32)
    for row, sample in enumerate(samples):
        tokens[row, :, 0] += (sample.targets.get("ef", 50.0) - 50) / 15
        tokens[row, :, 1 + VIEWS.index(sample.view)] += 2
    place = np.full(len(samples), -1)
    place[rows] = np.arange(len(rows))
    count = len(rows)
    return Features(
        place,
        tokens[rows],
        np.arange(count)[:, None],
        np.ones(count, bool),
        np.zeros((count, 1), bool),
        {},
    )


def data_of(patients: int = 40, name: str = "adult", perturbations=(), samples=None) -> Data:
    """A data set with features of its videos, and of degraded test videos, which are noisy."""
    samples = samples_of(patients, name) if samples is None else samples
    data = Data(name, samples, SPLITS, WIDTH)
    features = {p: features_of(samples, data.rows(p), 0.1 if p is None else 1.0)
                for p in (None, *perturbations)}  # fmt: skip
    return Data(name, samples, SPLITS, WIDTH, features)
