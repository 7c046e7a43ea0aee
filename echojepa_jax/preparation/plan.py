"""The plan of a preparation: lists, measures, filters and names files, and assigns them to shards.

A preparation writes two folders. OUT contains what may be shared. OUT.private contains what could
identify patients: the salt of the pseudonyms, the plan, and the rejected files with their reasons.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from echojepa_jax.data import manifest, scan, shards, splits
from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo, VideoInfo
from echojepa_jax.data.formats.video_info import NOT_2D, VARIABLE_RATE, each_note, has_region
from echojepa_jax.data.sample import Rejected, Sample, T
from echojepa_jax.data.sources import kind_of, read_source
from echojepa_jax.preparation import duplicates
from echojepa_jax.preparation.recording import Recording
from echojepa_jax.runtime.sandbox import Guard
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.config_fields import differences
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original
from echojepa_jax.utils.files import held, whole, write_json

log = logging.getLogger(__name__)

# Sets that were published without names and with nothing around the sector: their ids and pixels
# are kept.
PUBLIC = (
    *("echonet_dynamic", "echonet_pediatric", "echonet_lvh", "camus", "tmed2", "phantom"),
    "shards",
)
# Sets whose ids are pseudonyms already.
PSEUDONYMOUS = (*PUBLIC, "mimic_iv_echo")
_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("path", pa.binary()),
        *((name, pa.string()) for name in ("id", "patient", "study", "view", "split")),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        ("spacing", pa.list_(pa.float64())),
        ("names", pa.list_(pa.string())),
        ("values", pa.list_(pa.float64())),
        *((name, pa.list_(pa.string())) for name in ("class_names", "class_values")),
        ("clean", pa.bool_()),
        ("trusted", pa.bool_()),
    ]
)
GIGABYTES = 2.0  # memory for one file
_MAX_PATIENT_SHARE = 0.2  # share of the videos; more suggests one id written for all patients
_MAX_CLASSES = 50  # a label with more different texts may contain names of people
STATE = "state"  # the folder that records the results of finished shards
_SALT, _REJECTED = "salt", "rejected.jsonl"
_PLAN, _FACTS = "plan.parquet", "plan.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to prepare a source.

    size: height and width of the square frames in pixels.
    sector: whether everything outside the ultrasound sector becomes black: "always", "never", or
      "auto" (always, except in published sets).
    min_frames, max_frames: limits for a video; others are rejected.
    default_fps: frame rate for files that do not state one; 0 = reject such files.
    splits: shares of the patients, for sources without splits; "" = `splits.DEFAULT`.
    salt_file: file with a secret of 16 bytes or more for hashing ids; "" = create one, and keep ids
      that are pseudonyms already.
    targets: labels to keep, separated by commas; "" = all, but none of a CSV table. Labels that are
      texts are kept as classes.
    shard_videos: videos per shard.
    file_seconds: time limit for one file.
    patient_from: a regular expression that finds the patient in a file's name; "" = names contain
      no patient.
    """

    size: int = 224
    sector: str = "auto"
    min_frames: int = 8
    max_frames: int = 5000
    default_fps: float = 0.0
    splits: str = ""
    salt_file: str = ""
    targets: str = ""
    shard_videos: int = 256
    file_seconds: float = 300.0
    patient_from: str = ""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of the plan, and the recordings that it will contain."""

    name: str
    recordings: tuple[Recording, ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """The two folders of a preparation."""

    out: Path

    @property
    def private(self) -> Path:
        return self.out.with_name(f"{self.out.name}.private")

    @property
    def rejected(self) -> Path:
        return self.private / _REJECTED

    def state(self, shard: Shard) -> Path:
        """The file with a shard's size and the results of its recordings; marks it as complete."""
        return self.private / STATE / f"{shard.name}.json"

    def is_done(self, shard: Shard) -> bool:
        try:
            state = json.loads(self.state(shard).read_text())
            return bool(state["bytes"] == (self.out / shard.name).stat().st_size)
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # unfinished, or an old format
            return False

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Creates the folders, and locks them for this process.

        Raises:
          UserError: the folders cannot be used, or another process is preparing into them.
        """
        stack = contextlib.ExitStack()
        try:
            for folder in (self.out, self.private, self.private / STATE):
                folder.mkdir(parents=True, exist_ok=True)
            self.private.chmod(0o700)
            holding = held(self.private, f"another process is preparing {self.out}")
            descriptor = stack.enter_context(holding)
        except OSError as error:
            raise UserError(f"--out={self.out} cannot be used: {error.strerror}") from error
        with stack:
            if not self.private.exists() or not os.path.samestat(
                os.fstat(descriptor), self.private.stat()
            ):  # another process removed it when it ended, a moment ago
                raise UserError(f"another process was preparing {self.out}: try again")
            try:
                yield
            finally:
                # Remove folders that an error left empty, while no other process can start there.
                for folder in (self.private / STATE, self.private, self.out):
                    with contextlib.suppress(OSError):
                        folder.rmdir()


def _check(options: Options) -> None:
    for name, least in (("size", 16), ("shard_videos", 1), ("min_frames", 2)):
        if getattr(options, name) < least:
            raise UserError(f"--{name}={getattr(options, name)} must be {least} or more")
    if options.file_seconds <= 0:
        raise UserError(f"--file_seconds={options.file_seconds:g} must be more than 0")
    if options.default_fps < 0:
        raise UserError(f"--default_fps={options.default_fps:g} must not be negative")
    if options.max_frames < options.min_frames:
        raise UserError(f"--max_frames={options.max_frames} is below --min_frames")
    splits.parse(options.splits or splits.DEFAULT)


def is_cleaned(source: str, options: Options) -> bool:
    """Whether everything but the ultrasound sector is made black."""
    if options.sector == "auto":
        return _was_prepared_with(source, "clean") or kind_of(source) not in PUBLIC
    return options.sector == "always"


def is_hashed(source: str, options: Options) -> bool:
    """Whether this preparation hashes the ids of the source."""
    return bool(options.salt_file) or kind_of(source) not in PSEUDONYMOUS


def has_pseudonyms(source: str, options: Options) -> bool:
    """Whether ids are hashes, made now or by an earlier preparation of the source."""
    return is_hashed(source, options) or _was_prepared_with(source, "hashed_ids")


def _was_prepared_with(source: str, fact: str) -> bool:
    """Whether a source is a prepared set, and its description states this fact."""
    return kind_of(source) == "shards" and bool(_about(source)[fact])


def _about(source: str) -> dict[str, Any]:
    return shards.about(source.removeprefix("shards:"))


def make_plan(
    source: str, work: Work, options: Options, guard: Guard
) -> tuple[list[Shard], list[Rejected]]:
    """Returns every shard, and the rejected files; a plan that exists already is read, not made.

    Raises:
      UserError: the source cannot be read or has changed since the plan was made, an option is
        impossible, or the folder contains something else.
    """
    _check(options)
    listed = read_source(source)
    manifest.check_names(source, listed)
    if options.patient_from:
        listed = splits.patients_from(options.patient_from, listed)
        people = len({sample.patient for sample in listed} - {""})
        found = counted(len(listed), "file"), counted(people, "patient")
        log.info("patients by the names of files: %s, %s", *found)
    facts = {
        "source": source,
        "options": dataclasses.asdict(options),
        "files": _fingerprint(listed),
    }
    file = work.private / _FACTS
    if file.exists():
        _check_same(json.loads(file.read_text()), facts, work)
        table = pq.read_table(work.private / _PLAN).to_pylist()
        return _as_shards(table), _rejected_of(work)
    if any(work.out.iterdir()):
        raise UserError(
            f"{work.out} contains files that prepare did not write: choose another --out"
        )
    salt = _salt(work, options) if is_hashed(source, options) else b""
    recordings, rejected = _recordings(source, listed, options, salt, guard)
    if not recordings:
        manifest.quarantine(work.rejected, rejected, "scan")
        raise UserError(
            f"all {len(listed)} files of {source} were rejected "
            f"({manifest.categories(rejected)}): {work.rejected} lists them with the reasons"
        )
    table = _assigned_to_shards(recordings, options)
    work.rejected.unlink(missing_ok=True)
    manifest.quarantine(work.rejected, rejected, "scan")
    pq.write_table(pa.Table.from_pylist(table, _SCHEMA), work.private / _PLAN, compression="zstd")
    units = {name: unit for sample in listed for name, unit in sample.units.items()}
    own_splits = any(sample.split for sample in listed)
    write_json(file, {**facts, "units": units, "own_splits": own_splits})
    return _as_shards(table), rejected


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], work: Work) -> None:
    # An option that an earlier version did not have counts as its default.
    usual = dataclasses.asdict(Options())
    theirs, mine = ({"source": f["source"], **usual, **f["options"]} for f in (before, now))
    if differ := differences(theirs, mine):
        raise UserError(
            f"{work.out} was started with another {', '.join(differ)}: use the same values, or "
            "another --out"
        )
    if before["files"] != now["files"]:
        salt = now["options"]["salt_file"] or work.private / _SALT
        raise UserError(
            f"the files of {now['source']} have changed since {work.out} was started: restore "
            f"them, or prepare them with another --out, and with --salt_file={salt} if that file "
            "exists, so that patients keep their splits and pseudonyms"
        )


def units_of(work: Work) -> dict[str, str]:
    """The units of the labels, by name, as the source gives them."""
    units: dict[str, str] = json.loads((work.private / _FACTS).read_text())["units"]
    return units


def has_own_splits(work: Work) -> bool:
    """Whether the source has splits, so that the preparation made none."""
    return bool(json.loads((work.private / _FACTS).read_text()).get("own_splits"))


def _rejected_of(work: Work) -> list[Rejected]:
    """The files that were rejected when the plan was made."""
    if not work.rejected.exists():
        return []
    lines = map(json.loads, work.rejected.read_text("utf-8").splitlines())
    return [
        Rejected(
            Sample("", original(line["path"]), original(line["source"])),
            line["reason"],
            line["kind"],
        )
        for line in lines
        if line["stage"] == "scan"
    ]


def _fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 of the listed samples, and of the sizes and modification times of their files."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(16) as pool:
        parts = (samples[i : i + scan.IN_FLIGHT] for i in range(0, len(samples), scan.IN_FLIGHT))
        keys = (key for part in parts for key in pool.map(scan.key_of, part))
        for sample, key in zip(samples, keys, strict=True):
            facts: list[Any] = [sample.name, sample.patient, sample.study, sample.view]
            facts.append(sample.split)
            facts.append(sample.content)  # known for records, which have no size and time
            if sample.classes:
                facts.append(sorted(sample.classes.items()))
            digest.update(json.dumps([facts, sorted(sample.targets.items()), key]).encode())
    return digest.hexdigest()


def _salt(work: Work, options: Options) -> bytes:
    """The secret of the pseudonyms: from --salt_file, else created once and stored privately."""
    path = Path(options.salt_file) if options.salt_file else work.private / _SALT
    if not options.salt_file and not path.exists():
        with whole(path) as partial:
            partial.touch(mode=0o600)
            partial.write_text(secrets.token_hex(32) + "\n")
        log.info(
            "created the secret %s, on which pseudonyms and splits depend: keep it private, and "
            "pass it as --salt_file when you prepare further sources of the same patients",
            path,
        )
    try:
        salt = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"--salt_file={path} cannot be read: {error.strerror}") from error
    if len(salt) < 16:
        raise UserError(
            f"--salt_file={path} is shorter than 16 bytes: create one with openssl rand -hex 32"
        )
    return salt


def _recordings(
    source: str, listed: Sequence[Sample], options: Options, salt: bytes, guard: Guard
) -> tuple[list[Recording], list[Rejected]]:
    """The recordings to write, in the order of the source, and the rejected files."""
    clean, hashed = is_cleaned(source, options), is_hashed(source, options)
    was_clean = _was_prepared_with(source, "clean")
    has_splits = any(sample.split for sample in listed)
    if options.splits and has_splits:
        raise UserError(
            f"--splits={options.splits} has no effect, because {source} has splits: remove the flag"
        )
    _check_targets(listed, source, options)
    measured, rejected = _measured(listed, options, clean, has_splits, guard)
    known, unknown = _identified(measured, guard)
    copies = duplicates.copies(known, guard)
    rejected += unknown
    rejected += [Rejected(s, copies[s.name], "bad") for s, _ in known if s.name in copies]
    good = [(sample, info) for sample, info in known if sample.name not in copies]
    shares = splits.parse(options.splits or splits.DEFAULT)
    split_salt = salt if hashed else splits.PUBLIC_SALT
    recordings = []
    for sample, info in good:
        patient, study = sample.patient, sample.study
        name = original(sample.name)
        recordings.append(
            Recording(
                path=sample.path,
                id=splits.pseudonym("video", name, salt) if hashed else sample.name,
                frames=sample.frames,
                fps=sample.fps or options.default_fps,
                patient=splits.pseudonym("patient", patient, salt) if hashed else patient,
                study=splits.pseudonym("study", study, salt) if hashed else study,
                view=sample.view if shards.WORD.fullmatch(sample.view) else "",
                split=sample.split or splits.split_of(splits.split_key(sample), shares, split_salt),
                spacing=sample.spacing,
                targets=_kept_labels(sample.targets, source, options),
                classes=_kept_labels(sample.classes, source, options),
                clean=clean,
                trusted=clean and (was_clean or (has_region(info) and _is_dicom(sample.path))),
            )
        )
    _check_plan(recordings, shares, source)
    kept = ", then cut to the sector, found by its motion" if clean else ""
    scan.log_notes(((sample.path, info.note) for sample, info in good), kept)
    if lost := sum(bool(s.view and not r.view) for (s, _), r in zip(good, recordings, strict=True)):
        log.warning(
            "dropped %s: a view must be one word, up to 24 letters, digits, '_', '+', '/' and '-'",
            counted(lost, "view"),
        )
    return recordings, rejected


def _measured(
    listed: Sequence[Sample], options: Options, clean: bool, has_splits: bool, guard: Guard
) -> tuple[list[tuple[Sample, VideoInfo]], list[Rejected]]:
    """The usable samples with the facts of their files, and the rejected ones."""
    good: list[tuple[Sample, VideoInfo]] = []
    rejected: list[Rejected] = []
    with ThreadPoolExecutor(16) as pool:
        probe = partial(duplicates.guarded, decode.probe, guard)
        results = scan.measured(listed, cache_dir(), pool, probe)
        for sample, info in zip(listed, results, strict=True):
            if isinstance(info, str):
                rejected.append(Rejected(sample, info, "bad"))
            elif found := scan.unwanted(sample, info):
                rejected.append(found)
            elif reason := _reason_to_reject(sample, info, options, clean, has_splits):
                rejected.append(Rejected(sample, reason, "bad"))
            else:
                good.append((scan.with_facts(sample, info), info))
    return good, rejected


def _identified(
    good: Sequence[tuple[Sample, VideoInfo]], guard: Guard
) -> tuple[list[tuple[Sample, VideoInfo]], list[Rejected]]:
    """The samples with their patients and studies, and those whose header cannot be read."""
    known: list[tuple[Sample, VideoInfo]] = []
    rejected: list[Rejected] = []
    identities = duplicates.patients_and_studies([sample for sample, _ in good], guard)
    for (sample, info), identity in zip(good, identities, strict=True):
        if isinstance(identity, str):
            rejected.append(Rejected(sample, identity, "bad"))
        else:
            patient, study = identity
            known.append((dataclasses.replace(sample, patient=patient, study=study), info))
    return known, rejected


def _requested_labels(options: Options) -> set[str]:
    """The labels that --targets names."""
    return {name.strip() for name in options.targets.split(",")} - {""}


def _check_targets(listed: Sequence[Sample], source: str, options: Options) -> None:
    """Checks the labels to keep.

    Raises:
      UserError: a requested label does not exist, has an impossible name, or contains texts that
        cannot be classes.
    """
    named = _requested_labels(options)
    texts = [_kept_labels(sample.classes, source, options) for sample in listed]
    for name in sorted({name for labels in texts for name in labels}):
        _check_classes(name, {labels[name] for labels in texts if name in labels}, source)
    found = {name for sample in listed for name in (*sample.targets, *sample.classes)}
    if unknown := sorted(named - found):
        raise UserError(
            f"--targets={options.targets}: {source} has no label {unknown[0]!r}; it has "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    for name in sorted(named or (found if kind_of(source) != "csv" else ())):
        if not shards.WORD.fullmatch(name):
            raise UserError(
                f"{source}: the label name {name!r} is not allowed: use up to 24 letters, digits, "
                "'_', '+', '/' and '-'"
            )


def _check_classes(name: str, classes: Collection[str], source: str) -> None:
    # The messages do not quote the texts, which may be names of people.
    if len(classes) > _MAX_CLASSES:
        raise UserError(
            f"{source}: the label {name!r} has {len(classes)} different texts, too many for "
            f"classes: use {_MAX_CLASSES} or fewer, or leave it out of --targets"
        )
    if odd := sum(not shards.is_class(text) for text in classes):
        raise UserError(
            f"{source}: {odd} of {len(classes)} classes of the label {name!r} are longer than 48 "
            "characters or contain invisible characters: use short words, or leave it out of "
            "--targets"
        )


def _kept_labels(labels: Mapping[str, T], source: str, options: Options) -> dict[str, T]:
    """The labels to keep. Those of a CSV table must be named: they could be phone numbers."""
    named = _requested_labels(options)
    if kind_of(source) != "csv" and not named:
        return dict(labels)
    return {name: value for name, value in labels.items() if name in named}


def _is_dicom(path: str) -> bool:
    try:
        return decode.is_dicom(path)
    except UnreadableVideo:
        return False  # the file is gone, which recording will report


def _check_plan(recordings: Sequence[Recording], shares: Mapping[str, float], source: str) -> None:
    """Checks patients and splits, and logs what looks wrong.

    Raises:
      UserError: a split has an impossible name, or a patient is in two splits.
    """
    by_split = _by_split(recordings)
    for split in by_split:
        if not re.fullmatch(r"[a-z0-9_]+", split):
            raise UserError(
                f"{source}: the split name {split!r} is not allowed: use lower-case letters, "
                "digits and '_'"
            )
    manifest.check_patients(
        {
            split: [Sample(r.id, r.path, source, patient=r.patient) for r in members]
            for split, members in by_split.items()
        }
    )
    empty = sorted(shares.keys() - by_split.keys())
    if by_split and empty and by_split.keys() <= shares.keys():
        log.warning("these splits have no patient: %s", ", ".join(empty))
    patients = Counter(recording.patient for recording in recordings if recording.patient)
    if patients and len(recordings) >= 50:
        ((_, most),) = patients.most_common(1)
        if most > _MAX_PATIENT_SHARE * len(recordings):
            log.warning(
                "one patient has %d of %d videos: check that the files do not all contain the "
                "same patient id",
                most,
                len(recordings),
            )


def _reason_to_reject(
    sample: Sample, info: VideoInfo, options: Options, clean: bool, has_splits: bool
) -> str:
    """Why a readable file is rejected; "" if it is not."""
    if ".." in Path(sample.name).parts:
        return "unsafe name: it leads out of the data set's folder"
    if info.frames < options.min_frames and not sample.still:
        return f"too short: {info.frames} frames, fewer than {options.min_frames}"
    if info.frames > options.max_frames:
        return f"too long: {info.frames} frames, more than {options.max_frames}"
    noted = each_note(info.note)
    if clean and NOT_2D in noted:
        return "not a sector: its regions are M-mode or spectral Doppler"
    if VARIABLE_RATE in noted:
        return "variable frame rate: the time between frames varies"
    if not (info.fps or sample.fps or sample.still or options.default_fps):
        return "no frame rate: the file does not state one; set --default_fps to use the file"
    if has_splits and not sample.split:
        return "no split: the source gives a split to other files only"
    if options.patient_from and not sample.patient:
        return "no patient: --patient_from finds none in the file's name"
    return ""


def _assigned_to_shards(recordings: Sequence[Recording], options: Options) -> list[dict[str, Any]]:
    """The plan as a table: each split in shards, ordered by hashes, which reveal nothing."""
    table = []
    for split, members in sorted(_by_split(recordings).items()):
        members.sort(key=lambda r: (hashlib.sha256(os.fsencode(r.id)).digest(), r.path))
        count = -(-len(members) // options.shard_videos)
        for place, recording in enumerate(members):
            name = shards.shard_name(split, place // options.shard_videos, count)
            row = dataclasses.asdict(recording)
            targets, classes = row.pop("targets"), row.pop("classes")
            # A path may be any bytes, and a text column must be UTF-8.
            path = os.fsencode(recording.path)
            names, values = list(targets), list(targets.values())
            row |= {"path": path, "shard": name, "names": names, "values": values}
            row |= {"class_names": list(classes), "class_values": list(classes.values())}
            table.append(row)
    return table


def planned(work: Work, name: str) -> Shard:
    """Reads the shard of this name from the plan on disk."""
    rows = pq.read_table(work.private / _PLAN, filters=[("shard", "=", name)]).to_pylist()
    (shard,) = _as_shards(rows)
    return shard


def _by_split(recordings: Iterable[Recording]) -> dict[str, list[Recording]]:
    by_split: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_split.setdefault(recording.split, []).append(recording)
    return by_split


def _as_shards(table: Iterable[dict[str, Any]]) -> list[Shard]:
    parts: dict[str, list[Recording]] = {}
    for row in table:
        name = row.pop("shard")
        down, right = row.pop("spacing")
        targets = dict(zip(row.pop("names"), row.pop("values"), strict=True))
        # Plans of earlier versions have no classes.
        texts = zip(row.pop("class_names", ()), row.pop("class_values", ()), strict=True)
        path = os.fsdecode(row.pop("path"))
        recording = Recording(
            **row, path=path, spacing=(down, right), targets=targets, classes=dict(texts)
        )
        parts.setdefault(name, []).append(recording)
    return [Shard(name, tuple(members)) for name, members in parts.items()]
