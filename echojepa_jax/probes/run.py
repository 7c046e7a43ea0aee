"""A probe run in stages: data, heads, training, and scores of the best head on unseen patients."""

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.data import manifest, splits
from echojepa_jax.data.clips.original import as_original
from echojepa_jax.data.clips.sampling import NEED_RATE, ORIGINAL, ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.units import check_unit, of_errors, unit_of
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.features.encode import FrozenEncoder
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.config import make_head
from echojepa_jax.probes.examples import Example, make_examples, of_split, share_of
from echojepa_jax.probes.files import METRICS, PREDICTIONS, STUDIES, WORST
from echojepa_jax.probes.held_out import held_out
from echojepa_jax.probes.predict import Videos, encoded_head_outputs, rows_of
from echojepa_jax.probes.reading import reading
from echojepa_jax.probes.results import (
    STUDY_COLUMNS,
    has_studies,
    majority_scores,
    prediction_columns,
    predictions,
    scores,
    study_rows,
    write_csv,
)
from echojepa_jax.probes.saved import (
    SavedProbe,
    check_encoder,
    encoder_path,
    load_probe,
    patient_mark,
)
from echojepa_jax.probes.task import fit_task
from echojepa_jax.probes.training import Setting, head_shapes, keep_encoder, train_heads
from echojepa_jax.probes.worst import save_worst
from echojepa_jax.train import provenance
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.train.workdir import CONFIG, MANIFEST, QUARANTINE, Workdir
from echojepa_jax.utils.config_fields import read_config
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import write_json
from echojepa_jax.utils.trees import count_parameters
from echojepa_jax.weights.pretrained import Pretrained, fingerprint

log = logging.getLogger(__name__)


def load_samples(
    config: ConfigDict, workdir: Path, clip: ClipSpec, needed: Collection[str]
) -> list[Sample]:
    """Loads the videos of a probe; lists rejected files in the workdir.

    Args:
      needed: names of splits; a source without splits is divided into them, see `splits.divided`.

    Raises:
      UserError: see `manifest.load`.
    """
    samples = manifest.load(
        config.data.sources,
        quarantine=workdir / QUARANTINE,
        max_bad_share=config.data.max_bad_share,
        expect_stills=config.data.expect_stills,
        need_rate=clip.by in NEED_RATE,
        workers=max(1, config.data.workers),
    )
    return splits.divided(samples, needed)


def make_videos(
    config: ConfigDict, weights: Pretrained, clip: ClipSpec, samples: Sequence[Sample]
) -> Videos:
    """The samples with the encoder, set up as the config describes."""
    dtype, clips, keep = config.encoder.dtype, config.data.clips, config.head.tokens
    return Videos(samples, FrozenEncoder.of(weights, dtype, clip, clips, keep), config.data.workers)


def run(config: ConfigDict, workdir: Path, weights: Pretrained) -> str:
    """Trains, or continues to train, and scores; returns a sentence about the result, or "" if a
    signal stopped it.

    Args:
      config: accepted by `config.check`.
      workdir: claimed for this config.
      weights: must contain an encoder.

    Raises:
      UserError: the data, labels or weights cannot be used, or no head has a finite loss.
    """
    started = provenance.now()
    # --- data ---------------------------------------------------------------------------------
    data, task_config = config.data, config.task
    clip = dataclasses.replace(
        clip_spec(weights, data.frames, data.size, data.sample_by, data.sample_value, "data."),
        area=tuple(data.crop_area),
        aspect=tuple(data.crop_aspect),
        place=data.place,
    )
    if data.augment == ORIGINAL:
        clip = as_original(clip)
    names = ("train_split", "val_split", "test_split")
    samples = load_samples(config, workdir, clip, [data[name] for name in names])
    examples = make_examples(
        samples, task_config.target, tuple(task_config.views), data.skip_unlabelled
    )
    splits.outside(samples, [data[name].lower() for name in names])
    parts = {name: of_split(examples, data[name], f"config field 'data.{name}'") for name in names}
    train = share_of(parts["train_split"], data.train_share, config.seed)
    val, test = parts["val_split"], parts["test_split"]
    used = {name: [samples[row] for row in rows_of(part)] for name, part in parts.items()}
    manifest.check_patients({data[name]: part for name, part in used.items()})
    unit = unit_of((sample for part in used.values() for sample in part), task_config.target)
    task = fit_task(task_config.kind, task_config.target, train, unit)
    for part in (val, test):
        task.encode([example.label for example in part])  # a class that training lacks is an error
    for name, part in (("train", train), ("val", val), ("test", test)):
        log.info("%s: %s", name, _size(len(part), len({e.patient for e in part})))

    # --- encoder and heads ----------------------------------------------------------------------
    videos = make_videos(config, weights, clip, samples)
    _check_head(config, videos.encoder.width)
    setting = Setting(
        config,
        workdir,
        videos,
        task,
        make_head(config, task.outputs),
        grids.cells(config.optim.learning_rates, config.optim.weight_decays),
        train,
        val,
    )
    head_size = count_parameters(head_shapes(setting)["params"]) // len(setting.grid)
    encoder_size = count_parameters(weights.params["encoder"])
    encoder = fingerprint(weights.params["encoder"])
    counts = {"train": len(train), "val": len(val), "test": len(test)}
    facts: dict[str, Any] = {
        "data": _facts_of(samples, task.target, data.sources, counts),
        "weights": {"encoder": encoder, "parameters": encoder_size},
        "parameters": {"head": head_size, "heads": len(setting.grid)},
    }
    provenance.record(Workdir(workdir), facts, program="probe", started=started)
    log.info(
        "encoder: all %s parameters of %s; head: %s parameters, trained with %s",
        f"{encoder_size:,}",
        config.weights,
        f"{head_size:,}",
        _grid_text(config),
    )

    # --- training -------------------------------------------------------------------------------
    best = train_heads(setting)
    if best is None:
        return ""
    if config.encoder.trainable:
        encoder = keep_encoder(setting, weights, best.encoder)

    # --- the best head on unseen patients ---------------------------------------------------------
    cell, told = setting.grid[best.head], held_out(setting, best)
    saved = SavedProbe(
        setting.head,
        best.params,
        task,
        clip,
        data.clips,
        tuple(task_config.views),
        encoder,
        videos.encoder.width,
        config.head.tokens,
        config.encoder.dtype,
        frozenset(map(patient_mark, [*train, *val])),
        told.thresholds,
        told.familiar,
        told.heads,
    )
    saved.save(workdir)
    chosen = {
        "head": cell.name,
        "lr": cell.learning_rate,
        "weight_decay": cell.weight_decay,
        "epoch": best.epoch,
        "epochs": config.optim.epochs,
        "val_score": abs(best.score),
    }
    return evaluate(config, workdir, saved, videos.encoded_by(best.encoder), test, chosen)


def evaluate(
    config: ConfigDict,
    workdir: Path,
    probe: SavedProbe,
    videos: Videos,
    test: Sequence[Example],
    chosen: Mapping[str, Any],
) -> str:
    """Scores a head on examples; writes predictions.csv, studies.csv, worst.npz and metrics.json.

    Returns:
      The main score, as a sentence.

    Raises:
      UserError: not one example can be read.
    """
    by_study = config.eval.by_study and has_studies(test, probe.task.target)
    known = [example for example in test if patient_mark(example) in probe.trained_on]
    if known:
        log.warning(
            "%d of %d examples are of patients that the probe was trained on, so the scores do not "
            "show how it performs on new patients: use another --split or source",
            *(len(known), len(test)),
        )
    memory = config.data.cache_gb * 1e9
    head_fn, params = probe.applied
    outputs, present = encoded_head_outputs(
        head_fn, probe.head, params, test, videos, memory, "test", embed=True
    )
    task = probe.task
    assert outputs.embeddings is not None
    distances = probe.distances(outputs.embeddings)
    lines, rows = predictions(task, test, outputs, present, distances)
    if not rows:
        raise UserError(f"none of {len(test)} test examples can be read: {outputs.errors[0]}")
    write_csv(workdir / PREDICTIONS, prediction_columns(task), lines)
    save_worst(workdir / WORST, task, rows, videos.samples)
    result: dict[str, Any] = {
        "task": {
            "kind": task.kind,
            "target": task.target,
            "unit": task.unit,
            "classes": list(task.classes),
        },
        "chosen": dict(chosen),
        "test": scores(task, rows, config.eval.bootstrap, config.seed)
        | {"unreadable": len(test) - len(rows), "of_patients_trained_on": len(known)},
        "study": None,
        "clinical": reading(task, lines, probe.thresholds, config.eval.bootstrap, config.seed),
    }
    if by_study:
        study_lines, studies = study_rows(task, rows)
        write_csv(workdir / STUDIES, STUDY_COLUMNS, study_lines)
        result["study"] = scores(task, studies, config.eval.bootstrap, config.seed)
        if task.kind == "classification":
            found = majority_scores(study_lines, config.eval.bootstrap, config.seed)
            result["study"]["scores"] |= found
    write_json(workdir / METRICS, result)
    return summary(result)


def summary(result: Mapping[str, Any]) -> str:
    """The main score of metrics.json, as a sentence."""
    task, test = result["task"], result["test"]
    name = "mae" if task["kind"] == "regression" else "accuracy"
    score, unit = test["scores"][name], of_errors(task["unit"])
    value, interval = "is not defined", ""
    if score["value"] is not None:
        value = f"{score['value']:.4g}{unit and ' ' + unit}"
    if score["low"] is not None:
        interval = f" (95 % interval {score['low']:.4g} to {score['high']:.4g})"
    unreadable = f"; {test['unreadable']} could not be read" if test["unreadable"] else ""
    return (
        f"{task['target']}: {name.replace('mae', 'MAE')} {value}{interval} "
        f"on {_size(test['examples'], test['patients'])}{unreadable}"
    )


def _size(examples: int, patients: int) -> str:
    return f"{counted(examples, 'example')} of {counted(patients, 'patient')}"


def _grid_text(config: ConfigDict) -> str:
    """The grid as part of a sentence."""
    rates, decays = config.optim.learning_rates, config.optim.weight_decays
    if len(rates) * len(decays) == 1:
        return f"learning rate {rates[0]:g} and weight decay {decays[0]:g}"
    sizes = counted(len(rates), "learning rate"), counted(len(decays), "weight decay")
    return f"each of {' and '.join(sizes)} at once; the best head is kept"


def _facts_of(
    samples: Sequence[Sample], target: str, sources: Sequence[str], examples: Mapping[str, int]
) -> dict[str, Any]:
    """What manifest.json says of the data; `examples`: their numbers by split."""
    return {
        "fingerprint": manifest.fingerprint(samples, target),
        "videos": len(samples),
        "sources": {s: sum(x.source == s for x in samples) for s in sources},
        "examples": examples,
    }


def _check_head(config: ConfigDict, width: int) -> None:
    """Raises UserError if the attention heads do not divide the width of the tokens."""
    heads = config.head.heads
    if config.head.kind == "attentive" and width % heads:
        near = max(n for n in range(1, heads + 1) if width % n == 0)
        raise UserError(
            f"config field 'head.heads' is {heads}, which does not divide the width of a token, "
            f"{width}; the nearest is {near}"
        )


def score_on(
    folder: Path, sources: Sequence[str], split: str, weights_path: str, workdir: Path
) -> str:
    """Scores the finished probe of `folder` on other data, with its own scaling and classes.

    Args:
      split: only this split of the sources; "" = all.
      weights_path: where the encoder is now; "" = the path in training.
      workdir: a new folder for the results.

    Returns:
      The main score, as a sentence.

    Raises:
      UserError: the probe, its encoder or the data cannot be used, or `workdir` is not empty.
    """
    started = provenance.now()
    probe = load_probe(folder, with_heads=True)
    config = read_config(folder / "config.json")
    path = weights_path or encoder_path(folder, config)
    weights = load_encoder_weights(path)
    check_encoder(probe, weights, folder, path)
    config.data.sources = tuple(sources)
    config.data.test_split = split
    # Files of a failed attempt may be replaced, finished results may not.
    left = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    if left - {QUARANTINE, MANIFEST, CONFIG, PREDICTIONS, STUDIES, WORST, METRICS}:
        raise UserError(f"--workdir={workdir} is not empty: give a new folder")
    for name in left:
        (workdir / name).unlink()
    workdir.mkdir(parents=True, exist_ok=True)

    samples = load_samples(config, workdir, probe.clip, {split.lower()} - {""})
    examples = make_examples(samples, probe.task.target, probe.views, config.data.skip_unlabelled)
    test = of_split(examples, split, "--split") if split else examples
    probe.task.encode([example.label for example in test])
    probe = with_unit(probe, unit_of((samples[row] for row in rows_of(test)), probe.task.target))
    facts = {
        "data": _facts_of(samples, probe.task.target, sources, {"test": len(test)}),
        "weights": {"encoder": probe.encoder},
        "probe": json.loads((folder / METRICS).read_text())["chosen"],
    }
    provenance.record(Workdir(workdir), facts, program="probe", started=started)
    write_json(workdir / "config.json", json.loads(config.to_json(sort_keys=False)))
    videos = make_videos(config, weights, probe.clip, samples)
    return evaluate(config, workdir, probe, videos, test, facts["probe"])


def with_unit(probe: SavedProbe, unit: str) -> SavedProbe:
    """The probe for labels in this unit; a probe without a unit gets it.

    Raises:
      UserError: the probe was trained on labels in another unit.
    """
    check_unit(probe.task.unit, unit, probe.task.target)
    known = probe.task.unit or unit
    return dataclasses.replace(probe, task=dataclasses.replace(probe.task, unit=known))
