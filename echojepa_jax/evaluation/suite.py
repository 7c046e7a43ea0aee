"""A suite, in named stages: models and data, features, probes, tables. Restartable at any point.

Every feature file and every result is whole or not there, and is a function of what its name and
its own facts state, so a second start makes only what is missing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data import manifest
from echojepa_jax.data.clips import perturbations
from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.clips.sampling import NEED_RATE, SPREAD
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import origin_of
from echojepa_jax.evaluation import cells, models, overlays, readings, rows, stored, tables, truth
from echojepa_jax.evaluation.data import MASKS, TRACED, Data, What, load
from echojepa_jax.evaluation.films import films_of
from echojepa_jax.evaluation.models import Facts, HowToEncode, Model
from echojepa_jax.evaluation.stored import Wanted
from echojepa_jax.evaluation.tasks import KINDS
from echojepa_jax.probes.examples import patient_of, sex_of
from echojepa_jax.train import provenance
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.config_fields import differences, leaves
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import digest_of, held, whole, write_json
from echojepa_jax.utils.progress import left

log = logging.getLogger(__name__)

CONFIG, DONE = "config.json", "done.json"
FEATURES, HEADS, RESULTS = "features", "heads", "results"
MARKDOWN, CSV, LATEX = "tables.md", "tables.csv", "tables.tex"
REJECTED = "quarantine.jsonl"
VERSION = 3  # of the numbers: raise it when a result would be another one


@dataclasses.dataclass(frozen=True)
class Job:
    """The probes of one task on one model with one seed."""

    task: str
    model: Facts
    seed: int
    file: Path


@contextlib.contextmanager
def claimed(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Holds the folder of a suite: makes it, or checks that it can go on with this config.

    Raises:
      UserError: the folder cannot be used, is held by another process, or was made with a config
        whose results cannot stand beside those of this one.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        busy = f"another process uses {workdir}: wait for it, or use another --workdir"
        with held(workdir, busy):
            _check_config(workdir, config)
            yield
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error}") from error


def _check_config(workdir: Path, config: ConfigDict) -> None:
    mine = json.loads(json.dumps(dict(leaves(config))))
    path = workdir / CONFIG
    if not path.exists():
        if any(workdir.iterdir()):
            raise UserError(f"{workdir} is not empty and has no {CONFIG}: use another --workdir")
        write_json(path, json.loads(config.to_json(sort_keys=False)))
        return
    theirs = json.loads(json.dumps(dict(leaves(ConfigDict(json.loads(path.read_text()))))))
    theirs = {"clip.place": SPREAD} | theirs  # earlier versions had nothing else
    changed = {n for n in {*theirs, *mine} if theirs.get(n) != mine.get(n)}
    fixed = {n for n in changed if not _may_change(n, theirs, mine)}
    there, now = ({n: x[n] for n in changed if n in x} for x in (theirs, mine))
    if fixed:
        one, two = ({n: x[n] for n in fixed if n in x} for x in (there, now))
        raise UserError(
            f"{workdir} was started with another config; it differs in "
            f"{', '.join(differences(one, two))}: use the same values, or another --workdir"
        )
    if changed:
        log.info("the suite goes on with other values: %s", ", ".join(differences(there, now)))
        (workdir / DONE).unlink(missing_ok=True)
        write_json(path, json.loads(config.to_json(sort_keys=False)))


def _may_change(name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether a suite that has begun may go on with another value of a field.

    Features, heads and results state what they depend on, so that models, tasks and seeds may come
    and go. But they do not know the pixels: a set of data that both configs have must be the same.
    """
    parts = name.split(".")
    if parts[0] == "data":
        section = f"data.{parts[1]}."
        return not all(any(n.startswith(section) for n in config) for config in (theirs, mine))
    return parts[0] in ("only", "weights", "controls", "tasks", "bootstrap")


@dataclasses.dataclass(frozen=True)
class Opened:
    """The models and the data of a suite, and all that is made of them.

    started: when it was opened. facts, openers: by model, in the order of tables. told: all that a
    result depends on, by its file.
    """

    started: str
    facts: Mapping[str, Facts]
    openers: Mapping[str, Callable[[], Model]]
    data: Mapping[str, Data]
    jobs: Sequence[Job]
    told: Mapping[Path, dict[str, Any]]

    @property
    def digest(self) -> str:
        """Of all that the tables depend on, apart from the config."""
        jobs = [[job.task, job.model.name, self.told[job.file]] for job in self.jobs]
        return digest_of([jobs, {name: _counts(one) for name, one in self.data.items()}])


def opened(config: ConfigDict, workdir: Path) -> Opened:
    """Reads the weights, lists the data, and fits `pca` if it is new; nothing is encoded.

    Args:
      config: accepted by `config.check`. workdir: claimed for this config.

    Raises:
      UserError: weights, data or labels cannot be used.
    """
    started = provenance.now()
    how = HowToEncode(
        config.clip.frames,
        config.clip.size,
        config.clip.sample_by,
        config.clip.sample_value,
        config.features.tokens,
        config.features.encoder_dtype,
        config.features.workers,
        config.clip.place,
    )
    named = _named(config, how)
    openers = {one[0]: functools.partial(models.open_weights, *one) for one in named}
    facts = {name: make().facts for name, make in openers.items()}
    need_rate = any(one.clip.by in NEED_RATE for one in facts.values())
    data = {
        name: _with_traced(config, load(name, section, workdir / REJECTED, need_rate))
        for name, section in config.data.items()
    }
    for task, options in config.tasks.items():
        try:
            KINDS[options.kind].examples(data, options)
        except UserError as error:  # now, not after hours of encoding
            raise UserError(f"task {task}: {error}") from error
    controls = _of_controls(config, workdir, data, named, facts)
    facts |= {name: make().facts for name, make in controls.items()}
    jobs = list(_jobs(config, workdir, list(facts.values())))
    told = {job.file: _facts_of(job, config, data) for job in jobs}
    return Opened(started, facts, openers | controls, data, jobs, told)


def is_done(workdir: Path, made_of: Opened) -> bool:
    """Whether all tables are there as they were written (F12), of these weights and data."""
    try:
        done = json.loads((workdir / DONE).read_text())
        same = all(_digest(workdir / name) == digest for name, digest in done["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    unchanged = done.get("made_of") == made_of.digest
    if same and not unchanged:
        log.info(
            "weights, data or this program have changed: the results that depend on them are "
            "computed again"
        )
    return same and unchanged


def mark_done(workdir: Path, made_of: Opened, files: Sequence[str]) -> None:
    """Records that the suite is complete, and the SHA-256 of its tables."""
    digests = {name: _digest(workdir / name) for name in files}
    write_json(workdir / DONE, {"made_of": made_of.digest, "sha256": digests})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(
    config: ConfigDict, workdir: Path, made_of: Opened, left_out: Sequence[str] = ()
) -> tables.Result:
    """Does all that is missing, and writes the tables.

    Args:
      config, workdir: of `opened`. left_out: tasks that `config.used` has removed.

    Raises:
      UserError: labels cannot be used, or no head learned anything finite.
    """
    facts, data = made_of.facts, made_of.data
    counts = {name: _counts(one) for name, one in data.items()}
    provenance.record(
        Workdir(workdir),
        {
            "data": {
                "fingerprint": digest_of(
                    {name: manifest.fingerprint(one.samples) for name, one in data.items()}
                ),
                "videos": sum(len(one.samples) for one in data.values()),
                "sets": counts,
            },
            "weights": {name: one.fingerprint for name, one in facts.items()},
        },
        program="evaluate",
        started=made_of.started,
    )

    # --- what is to be done ---------------------------------------------------------------------
    jobs = made_of.jobs
    results = {job.file: cells.read(job.file, made_of.told[job.file]) for job in jobs}
    todo = [job for job in jobs if results[job.file] is None]
    if len(todo) < len(jobs):
        log.info("%d of %d results exist already", len(jobs) - len(todo), len(jobs))

    # --- features: each model once per data set and degradation ---------------------------------
    wanted = {name: _wanted(config, data, name) for name in facts}
    for name, make in made_of.openers.items():
        needed = {need for job in todo if job.model.name == name for need in _needs(config, job)}
        if needed:
            model = make()
            asked = [wanted[name][need] for need in sorted(needed, key=str)]
            _encode(workdir / FEATURES, model, asked)
            for one in asked:
                if one.frames is not None:
                    known = _masks(data[one.name], model.facts)
                    stored.make(workdir / FEATURES, known, _as_labels(one))

    # --- probes ---------------------------------------------------------------------------------
    took: dict[str, list[float]] = {}
    for done, job in enumerate(todo):
        started_job = time.monotonic()
        rest = _left(took, [other.task for other in todo[done:]])
        log.info(
            "probes %d of %d: task %s, model %s, seed %d%s",
            *(done + 1, len(todo), job.task, job.model.name, job.seed, rest),
        )
        mine = _with_features(config, workdir, data, job, wanted[job.model.name])
        options = config.tasks[job.task]
        made = KINDS[options.kind].run(mine, options, config.probe, job.seed)
        cells.write(job.file, made, made_of.told[job.file])
        results[job.file] = cells.read(job.file, made_of.told[job.file])
        took.setdefault(job.task, []).append(time.monotonic() - started_job)

    # --- tables ---------------------------------------------------------------------------------
    table_rows, films, pictures, read = {}, {}, {}, {}
    everything = [sample for one in data.values() for sample in one.samples]
    for task, options in config.tasks.items():
        of_task: dict[str, list[Sequence[cells.Cell]]] = {}
        for job in jobs:
            if job.task == task:
                of_task.setdefault(job.model.name, []).append(results[job.file] or [])
        log.info("%s: %d resamples of patients", task, config.bootstrap)
        table_rows[task] = rows.of_task(task, options, of_task, config.bootstrap, config.seed)
        firsts = {model: by_seed[0][0] for model, by_seed in of_task.items()}
        read[task] = {
            model: found
            for model, cell in firsts.items()
            if (
                found := readings.of_cell(
                    cell, options.get("target", ""), config.bootstrap, config.seed
                )
            )
        }
        films[task] = films_of(next(iter(firsts.values())), everything)
        if options.kind == cells.SEGMENTATION:
            pictures[task] = overlays.made(data[options.data], of_task)
    result = tables.Result(
        list(facts.values()),
        _passes(config, workdir / FEATURES, facts, wanted),
        config.features.tokens,
        table_rows,
        dict(config.tasks.items()),
        {name: {origin_of(s) for s in section.sources} for name, section in config.data.items()},
        counts,
        config.bootstrap,
        films,
        left_out,
        pictures,
        read,
    )
    shown = tables.tables(result)
    for name, text in (
        (MARKDOWN, tables.as_markdown(shown)),
        (CSV, tables.as_csv(result)),
        (LATEX, tables.as_latex(shown)),
    ):
        with whole(workdir / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return result


_Named = tuple[str, str, HowToEncode]


def _named(config: ConfigDict, how: HowToEncode) -> list[_Named]:
    """The models that the user named, at each size: the name in tables, the path, how to encode."""
    ways = {"": how}
    for size in map(int, config.clip.more_sizes):
        ways[f"-{size}px"] = dataclasses.replace(how, size=size)
    names = models.names_of(config.weights)
    named = [
        (name + ending, path, way)
        for ending, way in ways.items()
        for name, path in zip(names, config.weights, strict=True)
    ]
    shown = [name for name, *_ in named]
    if twice := sorted({name for name in shown if shown.count(name) > 1}):
        raise UserError(
            f"two models would have the name {twice[0]} in tables: rename a folder of --weights, "
            "or change clip.more_sizes"
        )
    return named


def _of_controls(
    config: ConfigDict,
    workdir: Path,
    data: Mapping[str, Data],
    named: Sequence[_Named],
    facts: Mapping[str, Facts],
) -> dict[str, Callable[[], Model]]:
    """What opens the models that need no training: one of each kind for models of equal sizes."""
    fitted_on = data[config.pca_data]
    train = [s for s in fitted_on.samples if s.split == fitted_on.splits[0]]
    found: dict[str, Callable[[], Model]] = {}
    for control in config.controls:
        known: set[str] = set()
        for name, path, way in named:
            if (sizes := facts[name].alike[control]) not in known:
                own = f"{control}-{name}" if known else control
                if control == models.INITIAL:
                    opener = functools.partial(models.open_initial, own, path, name, way)
                    found[own] = functools.partial(opener, seed=config.seed)
                else:
                    opener = functools.partial(models.open_pca, own, path, way)
                    found[own] = functools.partial(opener, folder=workdir / "models", train=train)
                known.add(sizes)
    return found


def _jobs(config: ConfigDict, workdir: Path, facts: Sequence[Facts]) -> Iterator[Job]:
    """All jobs: one seed after the other, so that the first round shows how long the next takes."""
    most = max(len(options.seeds) for options in config.tasks.values())
    for place in range(most):
        for model in facts:
            for task, options in config.tasks.items():
                if place < len(options.seeds):
                    seed = int(options.seeds[place])
                    file = workdir / RESULTS / task / model.name / f"seed{seed}.json"
                    yield Job(task, model, seed, file)


def _facts_of(job: Job, config: ConfigDict, data: Mapping[str, Data]) -> dict[str, Any]:
    """All that a result depends on."""
    options = config.tasks[job.task]
    needs = KINDS[options.kind].needs(options)
    names = {name for name, _ in needs}
    # The labels of a task are texts at times.
    classes = options.get("target", "")
    told = {
        "version": VERSION,
        "model": job.model.fingerprint,
        "clip": job.model.clip.facts(),
        "count": config.clip.count,
        "features": {k: v for k, v in config.features.items() if k != "workers"},
        "data": {name: manifest.fingerprint(data[name].samples, classes) for name in sorted(names)},
        "people": {name: _people(data[name].samples) for name in sorted(names)},
        "rejected": {name: manifest.fingerprint(data[name].rejected) for name in sorted(names)},
        "splits": {name: list(data[name].splits) for name in sorted(names)},
        "options": {k: v for k, v in options.items() if k != "seeds"},
        "probe": config.probe.to_dict(),
        "seed": job.seed,
    }
    if any(isinstance(what, Perturbation) for _, what in needs):
        told["perturbations"] = perturbations.VERSION
    if traced := [name for name, what in needs if what == TRACED]:
        told["traced"] = {
            name: [truth.fingerprint(data[name].traced), *data[name].beyond] for name in traced
        }
    return told


def _people(samples: Sequence[Sample]) -> str:
    """SHA-256 of what results need of samples, and features and training do not."""
    told = ((s.study, patient_of(s), sex_of(s), sorted(s.units.items())) for s in samples)
    return digest_of(list(told))


def _with_traced(config: ConfigDict, data: Data) -> Data:
    """The data set with the traced frames of all views that a task needs."""
    need = (data.name, TRACED)
    asking = [o for o in config.tasks.values() if need in KINDS[o.kind].needs(o)]
    if not asking:
        return data
    views = {view for options in asking for view in options.views}
    everything = any(not options.views for options in asking)
    traced, beyond = truth.traced(data.samples, () if everything else sorted(views))
    return dataclasses.replace(data, traced=traced, beyond=beyond)


def _masks(data: Data, model: Facts) -> Model:
    return truth.masks(data.traced, data.samples, model.clip)


def _as_labels(wanted: Wanted) -> Wanted:
    """The masks of the frames, in place of their features."""
    return dataclasses.replace(wanted, dtype="uint8", encoder_dtype="")


Need = tuple[str, What]


def _needs(config: ConfigDict, job: Job) -> list[Need]:
    options = config.tasks[job.task]
    return KINDS[options.kind].needs(options)


def _wanted(config: ConfigDict, data: Mapping[str, Data], model: str) -> dict[Need, Wanted]:
    """The features that any task needs of a model."""
    needs = {need for o in config.tasks.values() for need in KINDS[o.kind].needs(o)}
    features = config.features
    found = {}
    for name, what in needs:
        mine = data[name]
        perturbation = what if isinstance(what, Perturbation) else None
        rows_, frames = mine.rows(perturbation), None
        if what == TRACED:
            rows_ = [row for row, _ in mine.traced]
            frames = tuple(tracing.frame for _, tracing in mine.traced)
        found[name, what] = Wanted(
            name,
            mine.samples,
            rows_,
            config.clip.count,
            features.tokens,
            features.dtype,
            features.encoder_dtype,
            perturbation,
            frames,
        )
    return found


def _left(took: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> str:
    """How long tasks will take, by the seconds that those of the same name, or all, took before."""
    every = [seconds for of_task in took.values() for seconds in of_task]
    if not every:
        return ""
    return left(sum(float(np.mean(took.get(task, every))) for task in tasks))


def _encode(root: Path, model: Model, wanted: Sequence[Wanted]) -> None:
    started, made = time.monotonic(), 0
    for done, one in enumerate(wanted):
        rest = ""
        if made:  # what was there before took no time
            more = sum(len(other.rows) * other.clips for other in wanted[done:])
            rest = left((time.monotonic() - started) / made * more)
        degraded = f", {one.perturbation}" if one.perturbation else ""
        degraded += f", {TRACED}" * (one.frames is not None)
        log.info(
            "features %d of %d: model %s on %s%s%s",
            *(done + 1, len(wanted), model.facts.name, one.name, degraded, rest),
        )
        made += stored.make(root, model, one)


def _with_features(
    config: ConfigDict,
    workdir: Path,
    data: Mapping[str, Data],
    job: Job,
    wanted: Mapping[Need, Wanted],
) -> dict[str, Data]:
    """The data sets of a job with the features of its model, and the place of heads on them."""
    root = workdir / FEATURES
    found: dict[str, dict[What, Any]] = {}
    heads: dict[str, Path] = {}
    for name, what in _needs(config, job):
        features = stored.load(root, job.model, wanted[name, what])
        found.setdefault(name, {})[what] = features
        if what == TRACED:
            known = _masks(data[name], job.model).facts
            found[name][MASKS] = stored.load(root, known, _as_labels(wanted[name, what]))
        if what is None:
            heads[name] = wanted[name, what].folder(workdir / HEADS, job.model)
    return {
        name: dataclasses.replace(
            data[name], width=job.model.width, features=features, heads=heads.get(name)
        )
        for name, features in found.items()
    }


def _passes(
    config: ConfigDict,
    root: Path,
    facts: Mapping[str, Facts],
    wanted: Mapping[str, Mapping[Need, Wanted]],
) -> dict[str, dict[str, int]]:
    """Clips that were encoded, by model, and by data set with the degradation."""
    return {
        name: {
            tables.passes_of(*need): stored.passes(root, model, one)
            for need, one in wanted[name].items()
        }
        for name, model in facts.items()
    }


def _counts(data: Data) -> dict[str, Any]:
    names = dict(zip(("train", "val", "test"), data.splits, strict=True))
    counts = {k: sum(s.split == split for s in data.samples) for k, split in names.items()}
    return counts | {
        "patients": len({s.patient for s in data.samples if s.patient}),
        "without_patient": sum(not s.patient for s in data.samples),
        "rejected": len(data.rejected),
        "outside": dict(data.outside),
        "beyond": len(data.beyond),
    }
