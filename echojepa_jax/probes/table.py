"""Predictions of a finished probe for files without labels: a table, written part by part.

`predictions.csv` has a line for every file, in the order of the sources; for a probe of several
views, a line for every study and one for every file that no study uses. Columns:

- `id, source, patient, study, view`: of the video or study; empty if unknown.
- `prediction`: a number in the target's unit, or the most probable class.
- `spread`: the standard deviation over the clips, of the number or of the probability of the
  predicted class. Empty if there is only one clip.
- `spread_heads`: the same over the heads of the grid. Empty if the probe keeps only one.
- `distance`, `flag`: how far it is from the training data, where 1 is the limit, and "far" or
  "near" (see distance.py). Empty for a probe of an earlier version.
- `padded`: frames of a clip that repeat the last frame, because the video is too short; for a
  study, the largest number.
- `study_prediction, study_videos`: the mean over the videos of the study (for classes, the most
  probable class of the mean), and their number; not for a probe of several views.
- `status`: "ok"; with the reason, "rejected: ..." for a file that cannot be used, or
  "unreadable: ..." for one whose frames cannot be decoded.
- `p_CLASS`: the probability of each class; `study_p_CLASS`: its mean over the study.

`predictions.csv.json` beside it records the probe, the encoder and the files. Until the
table is complete, `predictions.csv.partial` contains the outputs of the finished parts. The same
command continues after them and writes the same table, bit for bit.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from echojepa_jax import __version__
from echojepa_jax.data import manifest
from echojepa_jax.data.clips.sampling import NEED_RATE
from echojepa_jax.data.sample import Sample
from echojepa_jax.features.encode import FrozenEncoder
from echojepa_jax.probes.examples import UNKNOWN, Example, patient_of
from echojepa_jax.probes.predict import Outputs, Videos, encode_videos, head_outputs, rows_of
from echojepa_jax.probes.results import Row, predictions, write_csv
from echojepa_jax.probes.run import make_videos
from echojepa_jax.probes.saved import (
    ABOUT,
    HEAD,
    SavedProbe,
    check_encoder,
    encoder_path,
    load_probe,
    patient_mark,
)
from echojepa_jax.probes.task import Task
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.utils.config_fields import read_config
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown
from echojepa_jax.utils.files import held, write_json
from echojepa_jax.utils.progress import with_progress
from echojepa_jax.weights.pretrained import Pretrained

log = logging.getLogger(__name__)

PART = 128
"""Examples per part, which an interruption can lose; a multiple of a device's examples."""

_SETTINGS = {
    "probe": "the probe",
    "encoder": "the encoder",
    "sources": "--source",
    "data": "the videos",
    "studies": "their studies or views",
    "left_out": "the rejected files",
}
"""The settings that determine a table, and their names in messages."""

_GIVEN = ("probe", "encoder", "sources")
"""The settings that the command gives; the others come from the files."""

_KNOWN = (
    *("id", "source", "patient", "study", "view"),
    *("prediction", "spread", "spread_heads", "distance", "flag", "padded"),
)


@dataclasses.dataclass(frozen=True)
class _Work:
    """The examples to predict for, and the rejected files.

    examples: of `samples`. rejected: each with the reason. order: positions of all listed videos,
    by (source, name).
    """

    samples: Sequence[Sample]
    examples: Sequence[Example]
    rejected: Sequence[tuple[Sample, str]]
    order: dict[tuple[str, str], int]


def predict_table(
    folder: Path,
    sources: Sequence[str],
    out: Path,
    *,
    split: str = "",
    weights_path: str = "",
    workers: int = 0,
) -> str:
    """Writes the table, or continues to; returns a sentence about its contents.

    Args:
      folder: workdir of the finished probe.
      split: only this split of sources that have splits; "" = all.
      weights_path: where the encoder is now; "" = the path in training.
      workers: processes that decode; 0 = threads of this process.

    Raises:
      UserError: the probe, its encoder, or a source cannot be used; `out` is another
        file; or no file could be read.
    """
    probe, config = load_probe(folder, with_heads=True), read_config(folder / "config.json")
    work = _listed(probe, sources, split, max(1, workers))
    settings = {
        "probe": _fingerprint((folder / ABOUT).read_bytes() + (folder / HEAD).read_bytes()),
        "encoder": probe.encoder,
        "sources": list(sources),
        "data": manifest.fingerprint(work.samples),
        "studies": _fingerprint(repr([(s.name, s.study, s.view) for s in work.samples]).encode()),
        "left_out": _fingerprint(repr([(s.name, why) for s, why in work.rejected]).encode()),
    }
    with _claimed(out) as partial:
        if _is_complete(out, settings, partial):
            Path(partial.name).unlink()
            return f"{out} is complete: nothing to do"
        config.data.workers = workers
        weights = _encoder_of(probe, folder, weights_path or encoder_path(folder, config))
        parts = _continued(partial, settings)
        if work.examples:
            videos = make_videos(config, weights, probe.clip, work.samples)
            _make_parts(probe, work, videos, config.data.cache_gb * 1e9, parts, partial)
        lines, read = _lines(probe, work, parts)
        columns = _columns(probe.task, bool(probe.views))
        about = {
            **settings,
            "target": probe.task.target,
            "unit": probe.task.unit,
            "lines": len(lines),
            "predicted": read,
            "version": __version__,
        }
        with _written(out):
            cells = [{name: line.get(name, "") for name in columns} for line in lines]
            write_csv(out, columns, cells)
            write_json(_about(out), about | {"sha256": _fingerprint(out.read_bytes())})
        Path(partial.name).unlink()
    return _summary(out, probe, lines, read)


def _encoder_of(probe: SavedProbe, folder: Path, path: str) -> Pretrained:
    try:
        weights = load_encoder_weights(path)
    except UserError as error:
        raise UserError(f"{error}: give the encoder of {folder} with --weights") from error
    check_encoder(probe, weights, folder, path)
    return weights


def _listed(probe: SavedProbe, sources: Sequence[str], split: str, threads: int) -> _Work:
    listed, good, rejected = manifest.sort_out(
        sources, split=split, quarantine=None, need_rate=probe.clip.by in NEED_RATE, workers=threads
    )
    examples, unused = _examples(good, probe.views)
    known = sum(patient_mark(example) in probe.trained_on for example in examples)
    if known:
        log.warning(
            "%d of %d lines are of patients in the probe's training: it has seen their labels",
            *(known, len(examples)),
        )
    without = [(r.sample, r.reason) for r in rejected] + unused
    order = {(sample.source, sample.name): place for place, sample in enumerate(listed)}
    return _Work(good, examples, without, order)


def _examples(
    samples: Sequence[Sample], views: Sequence[str]
) -> tuple[list[Example], list[tuple[Sample, str]]]:
    """All videos or, if there are `views`, all studies that show one of them; without labels.

    Returns:
      The examples, and the videos that are in none of them, each with the reason.

    Raises:
      UserError: a study has more than one patient.
    """
    if not views:
        return [_example_of(s, s.name, s.view, ((row,),)) for row, s in enumerate(samples)], []
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    unused = []
    for row, sample in enumerate(samples):
        if not sample.study:
            why = "no study: this probe needs studies, but the source has none for this file"
            unused.append((sample, why))
        elif sample.view not in views:
            view = sample.view or "not named by the source"
            unused.append((sample, f"other view: {view}; the probe takes {', '.join(views)}"))
        else:
            groups[sample.source, sample.study].append(row)
    examples = []
    for (source, study), members in groups.items():
        if len(patients := {samples[row].patient for row in members}) > 1:
            raise UserError(
                f"study {study} of {source} has more than one patient, {sorted(patients)}: give "
                "each patient studies of their own"
            )
        seen = (tuple(row for row in members if samples[row].view == view) for view in views)
        examples.append(_example_of(samples[members[0]], study, "", tuple(seen)))
    return examples, unused


def _example_of(sample: Sample, name: str, view: str, rows: tuple[tuple[int, ...], ...]) -> Example:
    about = shown(sample.source), patient_of(sample), sample.study, sample.split, view
    return Example(name, *about, rows, UNKNOWN)


# --- parts ------------------------------------------------------------------------------------


def _make_parts(
    probe: SavedProbe,
    work: _Work,
    videos: Videos,
    memory: float,
    parts: list[dict[str, Any]],
    partial: BinaryIO,
) -> None:
    """Makes the parts that are missing in `parts`; writes each to `partial` when it is complete.

    Parts begin at the same examples with or without an interruption, so that a clip has the same
    place in its batch, and the same bits.
    """
    examples, size = work.examples, _part_size(work.examples, videos.encoder, memory)
    starts = range(sum(len(part["errors"]) for part in parts), len(examples), size)
    count = len(parts) + len(starts)
    if parts:
        log.info("%d of %d parts are done already", len(parts), count)
    for start in with_progress(starts, len(starts), "parts"):
        some = examples[start : start + size]
        what = f"part {len(parts) + 1} of {count}"
        features = encode_videos(videos, rows_of(some), what)
        head_fn, params = probe.applied
        outputs, present = head_outputs(head_fn, probe.head, params, some, features, embed=True)
        assert outputs.embeddings is not None
        distances = probe.distances(outputs.embeddings)
        part = {
            "first": start,
            "values": outputs.values.tolist(),
            "present": present.tolist(),
            "errors": outputs.errors,
            "distances": [None if np.isnan(x) else float(x) for x in distances],
        }
        _append(partial, part)
        parts.append(part)


def _part_size(examples: Sequence[Example], encoder: FrozenEncoder, memory: float) -> int:
    """Examples per part: as many as fit into memory, a multiple of a device's examples."""
    videos = max(len(rows_of([example])) for example in examples)
    room = int(memory // (videos * encoder.bytes_per_video()))
    return max(1, min(PART, room // 8 * 8 if room >= 8 else room))


def _continued(partial: BinaryIO, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the parts of an interrupted program, or writes the first line of a new file.

    An incomplete last part is cut off.

    Raises:
      UserError: the parts belong to another probe or to other files.
    """
    partial.seek(0)
    parts: list[dict[str, Any]] = []
    whole, done, differ = 0, 0, ""
    for number, line in enumerate(partial):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        if number == 0:
            differ = _differing(entry, settings)
        elif entry["first"] != done:
            break
        elif differ:
            raise UserError(
                f"{partial.name} is the beginning of another table, which differs in {differ}: "
                "delete it, or give another --out"
            )
        else:
            parts.append(entry)
            done += len(entry["errors"])
        whole += len(line)
    if differ:
        whole = 0  # it was stopped before its first part
    partial.truncate(whole)
    if not whole:
        _append(partial, settings)
    return parts


def _append(partial: BinaryIO, entry: dict[str, Any]) -> None:
    with _written(Path(partial.name)):
        partial.write(json.dumps(entry).encode() + b"\n")
        partial.flush()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turns the errors of a full or broken disk into UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[BinaryIO]:
    """Opens the file of finished parts, and locks it for this process.

    Raises:
      UserError: it cannot be written, or another process has locked it.
    """
    path = out.with_name(f"{out.name}.partial")
    if out.is_dir():
        raise UserError(
            f"--out={out} is a folder: name a file in it, such as {out}/predictions.csv"
        )
    with _written(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    busy = f"another process is writing {out}: wait for it, or give another --out"
    with file, held(path, busy):
        try:
            yield file
        except BaseException:
            # Before anything was written, no file is left behind.
            if not file.tell():
                path.unlink()
            raise


def _about(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _differing(found: dict[str, Any], settings: dict[str, Any], names: Sequence[str] = ()) -> str:
    """The settings in which an existing table differs, as text; "" = none.

    names: the settings to compare; () = all.
    """
    some = names or tuple(settings)
    return ", ".join(_SETTINGS[name] for name in some if found.get(name) != settings[name])


def _fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_complete(out: Path, settings: dict[str, Any], partial: BinaryIO) -> bool:
    """Whether the table exists and is unchanged (F12).

    Raises:
      UserError: `out` has other settings, was changed, or was not written by this program.
    """
    about = _about(out)
    begun = partial.seek(0, 2) > 0
    if not about.exists():
        if out.exists() and not begun:
            raise UserError(f"{out} already exists: give another --out")
        return False
    try:
        found = json.loads(about.read_text())
        mark = found.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{about} cannot be read: {error!r}; give another --out") from error
    changed = not out.exists() or _fingerprint(out.read_bytes()) != mark
    if not found.get("predicted") and not changed and not _differing(found, settings, _GIVEN):
        return False  # all its files were rejected, and may have been repaired since
    if differ := _differing(found, settings):
        raise UserError(f"{out} is another table, which differs in {differ}: give another --out")
    if not out.exists():
        return False
    if changed:
        raise UserError(
            f"{out} was changed after it was written: move it away to write it again, or give "
            "another --out"
        )
    return True


# --- lines ------------------------------------------------------------------------------------


def _lines(
    probe: SavedProbe, work: _Work, parts: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """The lines of the table, in the order of the sources, and how many have a prediction."""
    lines: list[tuple[int, dict[str, Any]]] = []
    rows: list[Row] = []
    for part in parts:
        some = work.examples[part["first"] : part["first"] + len(part["errors"])]
        outputs = Outputs(np.array(part["values"], np.float32), part["errors"])
        present = np.array(part["present"], bool)
        # A part of an earlier version has no distances.
        distances = np.array(part.get("distances", [None] * len(some)), np.float64)
        made, readable = predictions(probe.task, some, outputs, present, distances)
        rows += readable
        for example, line in zip(some, made, strict=True):
            videos = [work.samples[row] for row in rows_of([example])]
            if line["status"] == "ok":
                # Frames that repeat the last one, in the last clip: no other one has more.
                last = probe.clips - 1, probe.clips
                line["padded"] = max(
                    probe.clip.frame_ids(video.frames, video.fps, None, last)[1] for video in videos
                )
            place = work.order[videos[0].source, videos[0].name]
            lines.append((place, line | {"patient": videos[0].patient}))
    if not probe.views:
        of_study = _study_cells(probe.task, rows)
        for _, line in lines:
            line |= of_study.get((line["source"], line["study"]), {})
    for sample, why in work.rejected:
        line = {name: getattr(sample, name) for name in ("patient", "study", "view")}
        line["source"] = shown(sample.source)
        status = f"rejected: {why}"
        place = work.order[sample.source, sample.name]
        lines.append((place, {"id": sample.name, **line, "status": status}))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])], len(rows)


def _study_cells(task: Task, rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Any]]:
    """The prediction for each study, by (source, study): the mean over its videos."""
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for example, output in rows:
        if example.study:
            groups[example.source, example.study].append(output)
    cells = {}
    for key, members in groups.items():
        mean = np.mean(members, axis=0)
        cells[key] = {
            "study_prediction": task.classes[mean.argmax()] if task.classes else repr(float(mean)),
            "study_videos": len(members),
        }
        if task.classes:
            for name, share in zip(task.classes, mean, strict=True):
                cells[key][f"study_p_{name}"] = repr(float(share))
    return cells


def _columns(task: Task, of_studies: bool) -> list[str]:
    study = [] if of_studies else ["study_prediction", "study_videos"]
    shares = [f"p_{name}" for name in task.classes]
    means = [] if of_studies else [f"study_{share}" for share in shares]
    return [*_KNOWN, *study, "status", *shares, *means]


def _summary(out: Path, probe: SavedProbe, lines: Sequence[dict[str, Any]], read: int) -> str:
    """The last line of the program.

    Raises:
      UserError: no file has a prediction.
    """
    reasons = Counter(line["status"].split(": ")[1] for line in lines if line["status"] != "ok")
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not read:
        raise UserError(
            f"none of {counted(len(lines), 'file')} can be used ({why}); {out} lists the reasons"
        )
    what = counted(read, "study" if probe.views else "video")
    unit = f" ({probe.task.unit})" if probe.task.unit else ""
    rest = f"; {len(lines) - read} have none ({why}): see column 'status'" if why else ""
    return f"{out} contains {probe.task.target}{unit} of {what}{rest}"
