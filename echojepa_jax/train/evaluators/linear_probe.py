"""The online probe: how well linear models predict labels from frozen features.

Every labelled video is encoded once. Its features are the mean over the tokens of a clip, and how
much and how fast the tokens vary in time, averaged over clips. Ridge and logistic regression
(scikit-learn) are fitted on one split and scored on the patients of another. Each view has its own
regression if the source contains views, because a measurement is defined in a given view.
The baseline is the same encoder with its random initial weights: even these give some information.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from echojepa_jax.data import manifest, splits
from echojepa_jax.data.clips.pipeline import Batch, evaluation_batches
from echojepa_jax.data.clips.prefetch import DeviceBatches
from echojepa_jax.data.clips.sampling import NEED_RATE, ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.units import of_errors, unit_of
from echojepa_jax.features.encode import repeats_of, times_of, tokens_of
from echojepa_jax.parallel.hosts import any_true, is_first, total
from echojepa_jax.parallel.mesh import batch_sharding, local_rows, make_mesh, platform_of
from echojepa_jax.runtime.signals import Stopped
from echojepa_jax.train import workdir as workdirs
from echojepa_jax.train.config import clip_spec
from echojepa_jax.train.evaluators import Evaluator, Moment
from echojepa_jax.train.program import attention_of, initial_params
from echojepa_jax.train.state import Networks, make_networks
from echojepa_jax.utils.bootstrap import with_intervals
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown
from echojepa_jax.utils.files import write_json
from echojepa_jax.utils.metrics_writer import Values
from echojepa_jax.utils.progress import with_progress
from echojepa_jax.utils.scores import regression_scores as all_scores

log = logging.getLogger(__name__)

Draw = Callable[[np.ndarray, np.ndarray, Sequence[str], str], np.ndarray]

RESAMPLES = 1000  # of the bootstrap over patients
RIDGE_ALPHAS = np.logspace(-1, 5, 13)
LOGISTIC_CS = np.logspace(-4, 1, 6)
FOLDS = 4
VIEW_PATIENTS = 20  # a view with fewer patients in training does not get its own regression


@dataclasses.dataclass(frozen=True)
class Fit:
    """Predictions of one probe on the test split, in the order of its samples."""

    true: np.ndarray
    predicted: np.ndarray
    scores: dict[str, float]


@partial(jax.jit, static_argnames=("networks", "sharding"))
def _clip_features(
    params: Any, clips: jax.Array, networks: Networks, sharding: jax.sharding.Sharding
) -> jax.Array:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3 D]: the mean over tokens, and their motion in time."""
    look = networks.mean, networks.std
    features = tokens_of(networks.encoder, params, clips, *look, keep="motion")[:, 0]
    return jax.lax.with_sharding_constraint(features, sharding)


def video_features(
    networks: Networks,
    params: Any,
    samples: Sequence[Sample],
    *,
    clip: ClipSpec,
    clips_per_video: int,
    batch: int,
    sharding: jax.sharding.Sharding,
    workers: int,
    stop_asked: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Encodes every video: float32 [len(samples), 3 D], in input order.

    Args:
      stop_asked: whether this host was asked to stop; called after every batch.

    Raises:
      Stopped: this host, or another, was asked to stop.
      UserError: a video cannot be decoded. Scores of the others would not be comparable (F04).
    """
    sums = np.zeros((len(samples), 3 * networks.encoder.width), np.float64)
    seen = np.zeros(len(samples), int)
    repeats = repeats_of(samples, clip, clips_per_video)
    times = times_of(repeats)
    batches: Iterator[Batch] = evaluation_batches(
        samples,
        clip=clip,
        global_batch=batch,
        clips_per_sample=clips_per_video,
        only=~repeats,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=workers,
    )
    count = -(-len(times) // batch)
    mine_first = jax.process_index() * batch // jax.process_count()
    with DeviceBatches(batches, sharding) as on_device:
        for step, part in enumerate(with_progress(on_device, count, "probe: encoding batches")):
            if any_true(stop_asked()):
                raise Stopped
            features = _clip_features(params, part["clips"], networks, sharding)
            mine, valid_here = local_rows(features), local_rows(part["valid"])
            clips = zip(part["sample_ids"], valid_here, part["error"], mine, strict=True)
            for place, (row, valid, error, value) in enumerate(clips, step * batch + mine_first):
                if error:
                    raise UserError(
                        f"{shown(samples[row].path)} of the probe's source cannot be decoded "
                        f"({error}): repair it, or remove it from the source"
                    )
                if valid:
                    sums[row] += times[place] * value
                    seen[row] += times[place]
    # Every host has encoded its share of each batch.
    sums, seen = total(sums), total(seen)
    if not (seen == clips_per_video).all():
        raise RuntimeError("some videos of the probe's source were not scored")
    return (sums / clips_per_video).astype(np.float32)


def _patient(sample: Sample) -> str:
    """The patient of a sample; without one, the sample counts as a patient."""
    return sample.patient or sample.name


def _fitted(
    model: Any, grid: Mapping[str, Any], x: np.ndarray, y: np.ndarray, samples: Sequence[Sample]
) -> GridSearchCV:
    """A model of scaled features x [n, D] and labels y [n], regularised by cross-validation.

    grid: the strengths to try, by scikit-learn's name. Folds are of patients.
    """
    patients = [_patient(sample) for sample in samples]
    folds = GroupKFold(min(FOLDS, len(set(patients))))
    scoring = "neg_mean_absolute_error" if isinstance(model, Ridge) else None
    search = GridSearchCV(make_pipeline(StandardScaler(), model), grid, scoring=scoring, cv=folds)
    return search.fit(x, y, groups=patients)


def regression_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Mean absolute error and R2 of numbers [n]; R2 is NaN if all true numbers are equal."""
    found = all_scores(true, predicted)
    return {name: found[name] for name in ("mae", "r2")}


def view_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy of names [n]."""
    return {"accuracy": float(np.mean(true == predicted))}


def fit_regression(
    train: np.ndarray,
    train_samples: Sequence[Sample],
    test: np.ndarray,
    test_samples: Sequence[Sample],
    target: str,
) -> Fit:
    """Ridge regressions of a target, one for each view (one for all views with few patients).

    The strength of the regularisation is chosen by cross-validation over patients.

    Args:
      train: features [n, D]; test: features [m, D].
    """
    labels = np.array([sample.targets[target] for sample in train_samples])
    truth = np.array([sample.targets[target] for sample in test_samples])
    test_views = np.array([sample.view for sample in test_samples])
    predicted = np.zeros(len(truth))
    for view in sorted(set(test_views)):
        rows = [i for i, sample in enumerate(train_samples) if sample.view == view]
        if len({_patient(train_samples[row]) for row in rows}) < VIEW_PATIENTS:
            rows = list(range(len(train_samples)))
        grid, some = {"ridge__alpha": RIDGE_ALPHAS}, [train_samples[row] for row in rows]
        search = _fitted(Ridge(), grid, train[rows], labels[rows], some)
        predicted[test_views == view] = search.predict(test[test_views == view])
    return Fit(truth, predicted, regression_scores(truth, predicted))


def fit_view(
    train: np.ndarray, train_samples: Sequence[Sample], test: np.ndarray, truth: np.ndarray
) -> Fit:
    """Logistic regression of the view, with the regularisation chosen as in `fit_regression`."""
    model, grid = LogisticRegression(max_iter=2000), {"logisticregression__C": LOGISTIC_CS}
    views = np.array([sample.view for sample in train_samples])
    predicted = _fitted(model, grid, train, views, train_samples).predict(test)
    return Fit(truth, predicted, view_scores(truth, predicted))


def fit_all(
    features: np.ndarray,
    samples: Sequence[Sample],
    *,
    train_split: str,
    test_split: str,
    targets: Sequence[str],
    view: bool,
) -> dict[str, Fit]:
    """Fits every probe on one split and scores it on the other.

    Args:
      features: [len(samples), D].

    Returns:
      One `Fit` by target name, and by "view".
    """
    rows = {
        split: [i for i, sample in enumerate(samples) if sample.split == split]
        for split in (train_split, test_split)
    }
    train, test = features[rows[train_split]], features[rows[test_split]]
    train_samples = [samples[i] for i in rows[train_split]]
    test_samples = [samples[i] for i in rows[test_split]]
    fits = {
        target: fit_regression(train, train_samples, test, test_samples, target)
        for target in targets
    }
    if view:
        fits["view"] = fit_view(
            train, train_samples, test, np.array([s.view for s in test_samples])
        )
    return fits


def check_labels(
    samples: Sequence[Sample],
    *,
    source: str,
    train_split: str,
    test_split: str,
    targets: Sequence[str],
    view: bool,
) -> list[Sample]:
    """The samples of the two splits, if all of them have the labels.

    Raises:
      UserError: a split is empty, a label is missing, or the training split contains only one view
        or one patient.
    """
    both = (train_split, test_split)
    chosen = [sample for sample in samples if sample.split in both]
    for split in both:
        if not any(sample.split == split for sample in chosen):
            found = sorted({sample.split for sample in samples})
            raise UserError(
                f"probe.source {source} has no video in the split {split!r}, only in {found}: "
                "set probe.train_split and probe.test_split"
            )
    for sample in chosen:
        missing = [name for name in targets if name not in sample.targets]
        if view and not sample.view:
            missing.append("view")
        if missing:
            raise UserError(
                f"{sample.name} of probe.source {source} has no label {missing[0]!r}; it has "
                f"{sorted(sample.targets)}: set probe.targets and probe.view"
            )
    train = [sample for sample in chosen if sample.split == train_split]
    patients, views = {_patient(sample) for sample in train}, {sample.view for sample in train}
    if len(patients) < 2 or (view and len(views) < 2):
        lacking = f"one view, {views.pop()!r}" if len(patients) > 1 else "one patient"
        raise UserError(
            f"the split {train_split!r} of probe.source {source} contains only {lacking}, and a "
            "probe needs at least two: set probe.train_split, or add videos"
        )
    return chosen


def metrics(fits: Mapping[str, Fit], prefix: str) -> dict[str, float]:
    """Scores by the name "prefix/target/score"."""
    return {
        f"{prefix}/{name}/{score}": value
        for name, fit in fits.items()
        for score, value in fit.scores.items()
    }


Intervals = Mapping[str, tuple[float | None, float | None]]


def _in_words(scores: Mapping[str, float], intervals: Intervals, unit: str) -> str:
    """Scores with their 95 % intervals, as text."""
    units = {"mae": unit and f" {unit}"}
    texts = []
    for name, value in scores.items():
        low, high = intervals[name]
        between = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
        texts.append(f"{name} {value:.3f}{units.get(name, '')}{between}")
    return ", ".join(texts)


class LinearProbe:
    """Encodes the probe's videos and scores linear models on them, also with random weights.

    The scores with random weights are kept in the workdir for when the run is resumed.

    draw: plots true and predicted values [n], views [n] and the unit into a picture for
      TensorBoard, uint8 [H, W, 3]; None = no pictures.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        trained_on: Sequence[Sample],
        draw: Draw | None = None,
    ) -> None:
        probe = config.probe
        self._config, self._workdir = config, workdir
        self._draw = draw if config.log.tensorboard and is_first() else None
        self._labels = {
            "train_split": probe.train_split,
            "test_split": probe.test_split,
            "targets": tuple(probe.targets),
            "view": probe.view,
        }
        samples = manifest.load(
            (probe.source,),
            quarantine=workdir / workdirs.per_host(workdirs.QUARANTINE),
            max_bad_share=config.data.max_bad_share,
            expect_stills=config.data.expect_stills,
            need_rate=config.data.sample_by in NEED_RATE,
            workers=max(1, config.data.workers),
        )
        samples = splits.divided(samples, {probe.train_split, probe.test_split})
        self._samples = check_labels(samples, source=probe.source, **self._labels)
        self._test = [s for s in self._samples if s.split == probe.test_split]
        patients = {sample.patient for sample in trained_on} - {""}
        files = {sample.path for sample in trained_on}
        known = {_patient(s) for s in self._test if s.patient in patients or s.path in files}
        if known:
            log.warning(
                "probe: training also uses videos of %d patients of the test split, without labels",
                len(known),
            )
        self._mesh = make_mesh(replica=config.mesh.replica, fsdp=config.mesh.fsdp)
        self._at_init = self._fit_at_init()

    def _fit_at_init(self) -> dict[str, Fit]:
        path, data = self._workdir / workdirs.PROBE_AT_INIT, manifest.fingerprint(self._samples)
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("data") == data:
            fits = kept["fits"].items()
            return {name: Fit(np.array(a), np.array(b), c) for name, (a, b, c) in fits}
        plain = make_networks(self._config)
        attention = attention_of(self._config, plain, platform_of(self._mesh))
        networks = make_networks(self._config, attention)
        params = initial_params(self._config, self._mesh)
        log.info("probe: encoding %s with random weights", counted(len(self._samples), "video"))
        made = self._fit(networks, params["encoder"])
        rows = {
            name: (fit.true.tolist(), fit.predicted.tolist(), fit.scores)
            for name, fit in made.items()
        }
        if is_first():
            write_json(path, {"data": data, "fits": rows})
        return made

    def _fit(
        self, networks: Networks, params: Any, stop_asked: Callable[[], bool] = lambda: False
    ) -> dict[str, Fit]:
        probe = self._config.probe
        features = video_features(
            networks,
            params,
            self._samples,
            clip=clip_spec(self._config),
            clips_per_video=probe.clips,
            batch=probe.batch,
            sharding=batch_sharding(self._mesh),
            workers=self._config.data.workers,
            stop_asked=stop_asked,
        )
        return fit_all(features, self._samples, **self._labels)

    def measure(self, moment: Moment) -> Values:
        """Metrics and pictures of the encoder at that moment.

        At the end of the run it also writes probe.json.

        Raises:
          Stopped: a host was asked to stop in the meantime.
        """
        fits = self._fit(moment.networks, moment.state.encoder, moment.stop_asked)
        if moment.last:
            self._write(moment.step, fits)
        return {
            **metrics(fits, "probe"),
            **metrics(self._at_init, "probe_init"),
            **self._pictures(fits),
        }

    def _pictures(self, fits: Mapping[str, Fit]) -> dict[str, np.ndarray]:
        if self._draw is None:
            return {}
        views = [sample.view for sample in self._test]
        return {
            f"probe/{name}": self._draw(fit.true, fit.predicted, views, unit_of(self._test, name))
            for name, fit in fits.items()
            if name != "view"
        }

    def _write(self, step: int, fits: Mapping[str, Fit]) -> None:
        names = [sample.name for sample in self._test]
        views = [sample.view for sample in self._test]
        patients = [_patient(sample) for sample in self._test]
        order = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
        result: dict[str, Any] = {"step": step, "regression": {}}
        for name, fit in fits.items():
            at_init = self._at_init[name]
            entry = {
                "names": names,
                "views": views,
                "patients": [order[patient] for patient in patients],  # numbers, not their ids
                "true": fit.true.tolist(),
                "predicted": fit.predicted.tolist(),
                "predicted_init": at_init.predicted.tolist(),
                "unit": unit_of(self._test, name),
                **fit.scores,
                **{f"{score}_init": value for score, value in at_init.scores.items()},
                "intervals": self._intervals(name, fit, patients),
                "intervals_init": self._intervals(name, at_init, patients),
            }
            (result if name == "view" else result["regression"])[name] = entry
            unit = of_errors(unit_of(self._test, name))
            log.info(
                "probe of %s on %s of other patients: %s; with random weights: %s "
                "(in brackets: 95 %% intervals)",
                name,
                counted(len(names), "video"),
                _in_words(fit.scores, entry["intervals"], unit),
                _in_words(at_init.scores, entry["intervals_init"], unit),
            )
        if is_first():
            write_json(self._workdir / "probe.json", result)

    def _intervals(self, name: str, fit: Fit, patients: Sequence[str]) -> Intervals:
        """The 95 % interval (low, high) of each score, from a bootstrap over patients."""
        scored = with_intervals(
            view_scores if name == "view" else regression_scores,
            fit.true,
            fit.predicted,
            patients,
            RESAMPLES,
            self._config.seed,
        )
        return {score: (found["low"], found["high"]) for score, found in scored.items()}


def evaluator(
    config: ConfigDict, workdir: Path, trained_on: Sequence[Sample], draw: Draw | None = None
) -> Evaluator:
    """Scores the encoder every `probe.every` steps and at the end of the run; see LinearProbe."""
    probe = LinearProbe(config, workdir, trained_on, draw)
    return Evaluator("probe", config.probe.every, at_start=False, measure=probe.measure)
