"""Embeddings as a map of two dimensions, and numbers on how well a label separates them.

A map is a picture and no evidence: distances in it are not those of the embeddings. The numbers
are computed from the embeddings themselves. Labels are never given to the projection.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echojepa_jax.data.sample import Sample, by_name
from echojepa_jax.data.sources import read_source
from echojepa_jax.data.sources.tables import is_missing, number, read_rows
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.extras import pip_install
from echojepa_jax.utils.file_names import original

log = logging.getLogger(__name__)

COLUMNS = ("view", "source", "split", "study", "patient")
"""Columns of the embeddings that may be labels."""

METHODS = ("pca", "umap")
SEED = 42
FOLDS = 3
# Those of the paper's figure.
NEIGHBOURS = 15
UMAP = {"n_neighbors": NEIGHBOURS, "min_dist": 0.1, "metric": "cosine", "random_state": SEED}
MAX_FOR_NUMBERS = 5000  # videos, drawn at random: the silhouette compares all pairs


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """One embedding for each video, the mean over its clips.

    values: float32 [n, D]. names: of videos in their sources. columns: `COLUMNS`, texts [n].
    """

    values: np.ndarray
    names: Sequence[str]
    columns: Mapping[str, Sequence[str]]

    def patients(self) -> list[str]:
        """The patient of every video; its study if unknown, or the video if that is unknown too."""
        keys = zip(*(self.columns[name] for name in ("source", "patient", "study")), self.names,
                   strict=True)  # fmt: skip
        return [f"{source}#{patient or study or name}" for source, patient, study, name in keys]


@dataclasses.dataclass(frozen=True)
class Labels:
    """What points are coloured by.

    values: texts, or numbers [n]; None = unknown. unit: of numbers; "" = unknown.
    """

    name: str
    values: Sequence[str | float | None]
    unit: str = ""

    @property
    def are_numbers(self) -> bool:
        return all(isinstance(value, float) for value in self.values if value is not None)


class Projection(NamedTuple):
    """A map: points float [n, 2], and the names of its axes."""

    points: np.ndarray
    axes: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Separation:
    """How well classes are separated in the embeddings; NaN if it is not defined.

    silhouette: mean over videos, of cosine distances, -1 to 1; 0 = classes overlap.
    accuracy: of logistic regression on standardised embeddings, in `FOLDS` folds by patient.
    commonest: the share of the commonest class, which always guessing it would reach.
    """

    silhouette: float
    accuracy: float
    commonest: float


def read_embeddings(folder: Path) -> Embeddings:
    """The embeddings that `embed` wrote; clips that could not be decoded are left out, and counted.

    Raises:
      UserError: the folder contains no embeddings, or fewer than three videos of them.
    """
    files = sorted(folder.glob("embeddings-*.parquet"))
    if not files:
        raise UserError(f"{folder} contains no embeddings: give the --out folder of `embed`")
    wanted = ["name", *COLUMNS, "row", "embedding"]
    try:
        table = pa.concat_tables([pq.read_table(file, columns=wanted) for file in files])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"the embeddings in {folder} cannot be read: {error}") from error
    good = table.filter(table["embedding"].is_valid())
    if lost := len(table) - len(good):
        log.warning("%d of %d clips are left out: they could not be decoded", lost, len(table))
    if len(good) == 0:
        raise UserError(f"no clip in {folder} has an embedding: see its column 'error'")
    # Clips of a video follow each other.
    _, first, video = np.unique(good["row"].to_numpy(), return_index=True, return_inverse=True)
    if len(first) < 3:
        raise UserError(
            f"{folder} has embeddings of {len(first)} videos: a map needs at least three"
        )
    clips = np.stack(good["embedding"].to_numpy())
    sums = np.zeros((len(first), clips.shape[1]))
    np.add.at(sums, video, clips)
    means = sums / np.bincount(video)[:, None]
    texts = {name: good[name].take(first).to_pylist() for name in ("name", *COLUMNS)}
    return Embeddings(means.astype(np.float32), texts.pop("name"), texts)


def find_labels(embeddings: Embeddings, name: str, table: Path | None = None) -> Labels:
    """Labels of the videos: of the table if it has them, of the embeddings, or of their sources.

    Args:
      name: one of `COLUMNS`, or a label.
      table: a CSV file with labels and a column `name` (or `study`, or `patient`) as in the
        embeddings; None = there is none.

    Raises:
      UserError: there is no such label, or the table or a source cannot be read.
    """
    rows = [row for _, row in read_rows(str(table), required=[])] if table else []
    if rows and name in rows[0]:
        found = _of_table(embeddings, name, rows, str(table))
    elif name in embeddings.columns:
        found = Labels(name, [text or None for text in embeddings.columns[name]])
    else:
        found = _of_sources(embeddings, name)
    if all(value is None for value in found.values):
        raise UserError(f"no video has the label {name!r}: name another --colour")
    return found


def _of_table(
    embeddings: Embeddings, name: str, rows: Sequence[Mapping[str, str]], table: str
) -> Labels:
    keys = [key for key in ("name", "study", "patient") if key in rows[0] and key != name]
    if not keys:
        raise UserError(
            f"{table} has no column 'name', 'study' or 'patient': add one, with the same values "
            "as in the embeddings"
        )
    mine = embeddings.names if keys[0] == "name" else embeddings.columns[keys[0]]
    found: dict[str, str] = {}
    for row in rows:
        key, text = row[keys[0]], row[name]
        if found.setdefault(key, text) != text:
            raise UserError(f"{table} has two values of {name!r} for the {keys[0]} {key!r}")
    texts = [found.get(key, "") for key in mine]
    try:
        return Labels(name, [number(text) for text in texts])
    except ValueError:
        return Labels(name, [None if is_missing(text) else text for text in texts])


def _of_sources(embeddings: Embeddings, name: str) -> Labels:
    samples: dict[tuple[str, str], Sample] = {}
    for source in sorted(set(embeddings.columns["source"])):
        try:
            listed = read_source(original(source))
        except UserError as error:
            raise UserError(
                f"{error}; the label {name!r} is in this source: name a table with --labels instead"
            ) from error
        samples |= {(source, sample.name): sample for sample in listed}
    mine = [samples.get(key) for key in zip(embeddings.columns["source"], embeddings.names,
                                            strict=True)]  # fmt: skip
    values: list[str | float | None] = []
    for sample in mine:
        value = by_name(sample.targets, name) if sample else None
        values.append(by_name(sample.classes, name) if sample and value is None else value)
    if all(value is None for value in values):
        some = {label for s in mine if s for label in (*s.targets, *s.classes)}
        raise UserError(
            f"there is no label {name!r}: --colour must be one of "
            f"{', '.join((*COLUMNS, *sorted(some)))}"
        )
    if any(isinstance(value, str) for value in values):
        return Labels(name, [v if v is None or isinstance(v, str) else f"{v:g}" for v in values])
    units = {by_name(sample.units, name) or "" for sample in mine if sample}
    return Labels(name, values, units.pop() if len(units) == 1 else "")


def project(values: np.ndarray, method: str = "pca") -> Projection:
    """A map of embeddings [n, D]: principal components, or UMAP (McInnes et al. 2018).

    Both are deterministic, and neither sees a label.

    Raises:
      UserError: umap-learn is not installed, or there are too few videos for it.
    """
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full")
        points = pca.fit_transform(values.astype(np.float64))
        first, second = (
            f"principal component {i + 1} ({100 * share:.0f} % of the variance)"
            for i, share in enumerate(pca.explained_variance_ratio_)
        )
        return Projection(points, (first, second))
    if method != "umap":
        raise UserError(f"--method is {method!r}, but it must be one of {', '.join(METHODS)}")
    if len(values) <= NEIGHBOURS:
        raise UserError(
            f"UMAP needs more than {NEIGHBOURS} videos, and there are {len(values)}: use "
            "--method=pca"
        )
    try:
        # umap-learn imports TensorFlow for a method that is not used here.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from umap import UMAP as Umap
    except ImportError as error:
        raise UserError(
            f"--method=umap needs umap-learn: {pip_install('umap')}, or use --method=pca"
        ) from error
    # With a seed it uses one thread; named here, because it warns otherwise.
    points = Umap(**UMAP, n_jobs=1).fit_transform(values)
    return Projection(points, ("UMAP 1", "UMAP 2"))


def separation(
    values: np.ndarray, classes: Sequence[str | None], patients: Sequence[str]
) -> Separation:
    """Numbers on embeddings [n, D] by class [n]; videos without a class are left out.

    Of more than MAX_FOR_NUMBERS videos, it takes that many.

    Args:
      patients: [n]; no patient is in training and in test of a fold.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = np.array([name is not None for name in classes])
    rows = np.flatnonzero(known)
    if len(rows) > MAX_FOR_NUMBERS:
        rows = np.random.default_rng(SEED).choice(rows, MAX_FOR_NUMBERS, replace=False)
    x = values[rows]
    y, groups = (np.array([str(text) for text in texts])[rows] for texts in (classes, patients))
    names, counts = np.unique(y, return_counts=True)
    nothing = Separation(np.nan, np.nan, float(counts.max() / len(y)) if len(y) else np.nan)
    if not 1 < len(names) < len(y):
        return nothing
    silhouette = silhouette_score(x, y, metric="cosine")
    found = dataclasses.replace(nothing, silhouette=float(silhouette))
    # Every fold must have something to learn from.
    by_class = [len(set(groups[y == name])) for name in names]
    if sum(count >= FOLDS for count in by_class) < 2:
        return found
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = list(splitter.split(x, y, groups))
    if any(len(set(y[train])) < 2 or not len(test) for train, test in folds):
        return found
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    right = cross_val_score(model, x, y, cv=folds)
    sizes = [len(test) for _, test in folds]
    return dataclasses.replace(found, accuracy=float(np.average(right, weights=sizes)))
