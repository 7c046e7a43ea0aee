"""The plan of a preparation: everything listed, measured, filtered, named, and given its place.

Two folders are written. OUT holds what may be shared. OUT.private holds what tells whom the videos
show: the salt of the pseudonyms, the plan, and which file was left out for which reason.
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
from typing import Any, Literal

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
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original
from echojepa_jax.utils.files import held, whole, write_json

log = logging.getLogger(__name__)

# Sets that are published without names, with nothing around the sector: kept as they are.
PUBLIC = (
    *("echonet_dynamic", "echonet_pediatric", "echonet_lvh", "camus", "tmed2", "phantom"),
    "shards",
)
# Ids that are pseudonyms already.
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
GIGABYTES = 2.0  # of memory for one file
_MOST_OF_ONE = (
    0.2  # share of the videos that one patient has at most, if ids are what they should be
)
_MOST_CLASSES = 50  # more different texts may be names of people
STATE = "state"  # the folder of what became of the shards
_SALT, _REJECTED = "salt", "rejected.jsonl"
_PLAN, _FACTS = "plan.parquet", "plan.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to prepare.

    size: of the square frames in pixels. sector: keep nothing but the ultrasound sector: "always",
    "never", or "auto": of all but published sets. min_frames, max_frames: of a video that is kept.
    default_fps: of files that do not tell their frame rate; 0 = leave them out. splits: shares, for
    sources without splits; "" = the usual ones. salt_file: a secret of 16 bytes or more that ids
    are hashed with; "" = one is made, and ids that are pseudonyms already are kept. targets: labels
    to keep, with commas between; "" = all of public sets and lists, none of a CSV table. Those that
    are texts are kept as classes.
    shard_videos: videos of a shard. file_seconds: that one file may take. patient_from: a regular
    expression that finds the patient in a file's name; "" = names tell none.
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
    """A part of the plan."""

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
        """What became of the recordings of a shard, and its size; written when it is complete."""
        return self.private / STATE / f"{shard.name}.json"

    def is_done(self, shard: Shard) -> bool:
        try:
            told = json.loads(self.state(shard).read_text())
            return bool(told["bytes"] == (self.out / shard.name).stat().st_size)
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # or of an older version
            return False

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folders, and holds them for one program.

        Raises:
          UserError: they cannot be used, or another program is at work in them.
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
                # Folders that a mistake has left empty go, while nobody else can begin in them.
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
        return _said(source, "clean") or kind_of(source) not in PUBLIC
    return options.sector == "always"


def is_hashed(source: str, options: Options) -> bool:
    """Whether ids of the source are hashed."""
    return bool(options.salt_file) or kind_of(source) not in PSEUDONYMOUS


def has_pseudonyms(source: str, options: Options) -> bool:
    """Whether hashes stand for the ids, made now or when a prepared source was made."""
    return is_hashed(source, options) or _said(source, "hashed_ids")


def origin_of(source: str) -> str:
    """The kind of a source, or of what a prepared one was made from."""
    kind = kind_of(source)
    return str(_about(source)["kind"]) if kind == "shards" else kind


def _said(source: str, fact: str) -> bool:
    """What a source that was prepared before says of itself."""
    return kind_of(source) == "shards" and bool(_about(source)[fact])


def _about(source: str) -> dict[str, Any]:
    return shards.about(source.removeprefix("shards:"))


def make_plan(
    source: str, work: Work, options: Options, guard: Guard
) -> tuple[list[Shard], list[Rejected]]:
    """Every shard, and the files that are not in any; the plan of an earlier start is kept.

    Raises:
      UserError: the source cannot be read or has changed since the plan was made, an option is
        impossible, or the folder holds something else.
    """
    _check(options)
    listed = read_source(source)
    manifest.check_names(source, listed)
    if options.patient_from:
        listed = splits.patients_from(options.patient_from, listed)
        people = len({sample.patient for sample in listed} - {""})
        log.info("the names of %d files tell %d patients", len(listed), people)
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
        raise UserError(f"{work.out} is not empty and was not made here: choose another --out")
    salt = _salt(work, options) if is_hashed(source, options) else b""
    recordings, rejected = _recordings(source, listed, options, salt, guard)
    if not recordings:
        manifest.quarantine(work.rejected, rejected, "scan")
        raise UserError(
            f"nothing is left of the {len(listed)} files of {source}: "
            f"{manifest.categories(rejected)}; {work.rejected} names them"
        )
    table = _placed(recordings, options)
    work.rejected.unlink(missing_ok=True)
    manifest.quarantine(work.rejected, rejected, "scan")
    pq.write_table(pa.Table.from_pylist(table, _SCHEMA), work.private / _PLAN, compression="zstd")
    units = {name: unit for sample in listed for name, unit in sample.units.items()}
    own_splits = any(sample.split for sample in listed)
    write_json(file, {**facts, "units": units, "own_splits": own_splits})
    return _as_shards(table), rejected


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], work: Work) -> None:
    # What an earlier version did not know is as if it had not been given.
    usual = dataclasses.asdict(Options())
    theirs, mine = ({"source": f["source"], **usual, **f["options"]} for f in (before, now))
    if differ := differences(theirs, mine):
        raise UserError(
            f"{work.out} was begun with another {', '.join(differ)}: use the same, or another --out"
        )
    if before["files"] != now["files"]:
        salt = now["options"]["salt_file"] or work.private / _SALT
        raise UserError(
            f"the files of {now['source']} have changed since {work.out} was begun: restore them, "
            f"or prepare them anew with another --out, and --salt_file={salt} if it is there, so "
            "that everybody keeps split and pseudonym"
        )


def units_of(work: Work) -> dict[str, str]:
    """The units of labels, by name, as the source has them."""
    units: dict[str, str] = json.loads((work.private / _FACTS).read_text())["units"]
    return units


def has_own_splits(work: Work) -> bool:
    """Whether the source gave the splits, so that none were made."""
    return bool(json.loads((work.private / _FACTS).read_text()).get("own_splits"))


def _rejected_of(work: Work) -> list[Rejected]:
    """What the plan left out."""
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
    """SHA-256 of what is listed, and of sizes and times of the files."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(16) as pool:
        parts = (samples[i : i + scan.IN_FLIGHT] for i in range(0, len(samples), scan.IN_FLIGHT))
        keys = (key for part in parts for key in pool.map(scan.key_of, part))
        for sample, key in zip(samples, keys, strict=True):
            facts: list[Any] = [sample.name, sample.patient, sample.study, sample.view]
            facts.append(sample.split)
            facts.append(sample.content)  # of records, which have no size and time of their own
            if sample.classes:
                facts.append(sorted(sample.classes.items()))
            digest.update(json.dumps([facts, sorted(sample.targets.items()), key]).encode())
    return digest.hexdigest()


def _salt(work: Work, options: Options) -> bytes:
    """The secret of the pseudonyms: the user's, else one that is made and kept."""
    path = Path(options.salt_file) if options.salt_file else work.private / _SALT
    if not options.salt_file and not path.exists():
        with whole(path) as partial:
            partial.touch(mode=0o600)
            partial.write_text(secrets.token_hex(32) + "\n")
        log.info(
            "pseudonyms and splits depend on a new secret, %s: keep it, and give it as --salt_file "
            "for further sources of the same patients",
            path,
        )
    try:
        salt = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"--salt_file={path} cannot be read: {error.strerror}") from error
    if len(salt) < 16:
        raise UserError(f"--salt_file={path} must hold 16 bytes or more: openssl rand -hex 32")
    return salt


def _recordings(
    source: str, listed: Sequence[Sample], options: Options, salt: bytes, guard: Guard
) -> tuple[list[Recording], list[Rejected]]:
    """The recordings to encode, in the order of the source, and what is left out."""
    clean, hashed = is_cleaned(source, options), is_hashed(source, options)
    was_clean = _said(source, "clean")
    has_splits = any(sample.split for sample in listed)
    if options.splits and has_splits:
        raise UserError(f"--splits={options.splits} is not used: {source} has splits of its own")
    _check_targets(listed, source, options)
    good: list[tuple[Sample, VideoInfo]] = []
    rejected: list[Rejected] = []
    with ThreadPoolExecutor(16) as pool:
        probe = partial(duplicates.guarded, decode.probe, guard)
        results = scan.measured(listed, cache_dir(), pool, probe)
        for sample, info in zip(listed, results, strict=True):
            reason = info if isinstance(info, str) else _unwanted(sample, info, options, clean)
            if not reason and has_splits and not sample.split:
                reason = "no split: the source gives it to others only"
            if not reason and options.patient_from and not sample.patient:
                reason = "no patient: --patient_from finds none in its name"
            if isinstance(info, str) or reason:
                rejected.append(Rejected(sample, reason, _kind_of(reason)))
            else:
                good.append((scan.with_facts(sample, info), info))
    known: list[tuple[Sample, VideoInfo]] = []
    people = duplicates.people([sample for sample, _ in good], guard)
    for (sample, info), who in zip(good, people, strict=True):
        if isinstance(who, str):
            rejected.append(Rejected(sample, who, "bad"))
        else:
            patient, study = who
            known.append((dataclasses.replace(sample, patient=patient, study=study), info))
    good = known
    copies = duplicates.copies(good, guard)
    rejected += [Rejected(s, copies[s.name], "bad") for s, _ in good if s.name in copies]
    good = [(sample, info) for sample, info in good if sample.name not in copies]
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
                split=sample.split or splits.split_of(splits.who(sample), shares, split_salt),
                spacing=sample.spacing,
                targets=_kept(sample.targets, source, options),
                classes=_kept(sample.classes, source, options),
                clean=clean,
                trusted=clean and (was_clean or (has_region(info) and _is_dicom(sample.path))),
            )
        )
    _check_plan(recordings, shares, source)
    kept = ", and of that the sector, which is what moves" if clean else ""
    scan.log_notes(((sample.path, info.note) for sample, info in good), kept)
    if lost := sum(bool(s.view and not r.view) for (s, _), r in zip(good, recordings, strict=True)):
        log.warning(
            "%d views are not kept: they are no single words of up to 24 letters, digits, '_', "
            "'+', '/' and '-'",
            lost,
        )
    return recordings, rejected


def _named(options: Options) -> set[str]:
    """The labels that --targets names."""
    return {name.strip() for name in options.targets.split(",")} - {""}


def _check_targets(listed: Sequence[Sample], source: str, options: Options) -> None:
    """Raises UserError if a label that was asked for is not there, has an impossible name, or holds
    texts that cannot be classes.
    """
    named = _named(options)
    texts = [_kept(sample.classes, source, options) for sample in listed]
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
                f"{source}: a label is called {name!r}; use up to 24 letters, digits, '_', '+', "
                "'/' and '-'"
            )


def _check_classes(name: str, classes: Collection[str], source: str) -> None:
    # They are not shown: they may be names of people.
    if len(classes) > _MOST_CLASSES:
        raise UserError(
            f"{source}: the label {name!r} has {len(classes)} different texts, which are too many "
            f"for classes: use {_MOST_CLASSES} or fewer, or leave it out of --targets"
        )
    if odd := sum(not shards.is_class(text) for text in classes):
        raise UserError(
            f"{source}: {odd} of {len(classes)} classes of the label {name!r} are longer than 48 "
            "characters, or have invisible ones: write short words, or leave it out of --targets"
        )


def _kept(labels: Mapping[str, T], source: str, options: Options) -> dict[str, T]:
    """The labels to keep. A column of numbers in anybody's table may be a phone number."""
    named = _named(options)
    if kind_of(source) != "csv" and not named:
        return dict(labels)
    return {name: value for name, value in labels.items() if name in named}


def _is_dicom(path: str) -> bool:
    try:
        return decode.is_dicom(path)
    except UnreadableVideo:
        return False  # it has gone, as encoding will tell


def _check_plan(recordings: Sequence[Recording], shares: Mapping[str, float], source: str) -> None:
    """Says what is odd about patients and splits.

    Raises:
      UserError: a split has an impossible name, or a patient is in two of them.
    """
    by_split = _by_split(recordings)
    for split in by_split:
        if not re.fullmatch(r"[a-z0-9_]+", split):
            raise UserError(f"{source}: a split is called {split!r}; use letters and digits only")
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
        if most > _MOST_OF_ONE * len(recordings):
            log.warning(
                "one patient has %d of %d videos: is the same id written for everybody?",
                most,
                len(recordings),
            )


def _kind_of(reason: str) -> Literal["bad", "still", "other"]:
    category = reason.partition(":")[0]
    return "still" if category == "still" else "other" if "modality" in category else "bad"


def _unwanted(sample: Sample, info: VideoInfo, options: Options, clean: bool) -> str:
    """Why a readable file is left out, "" if it is not."""
    if ".." in Path(sample.name).parts:
        return "unsafe name: it leads out of the data set"
    if info.frames == 1 and not sample.still:
        return "still: the file holds one frame"
    if info.frames < options.min_frames and not sample.still:
        return f"too short: {info.frames} frames of {options.min_frames}"
    if info.frames > options.max_frames:
        return f"too long: {info.frames} frames, more than {options.max_frames}"
    if other := scan.of_another_machine(sample, info):
        return other
    noted = each_note(info.note)
    if clean and NOT_2D in noted:
        return "not a sector: its regions are M-mode or spectral Doppler"
    if VARIABLE_RATE in noted:
        return "variable frame rate: frames are not equally far apart"
    if not (info.fps or sample.fps or sample.still or options.default_fps):
        return "no frame rate: the file tells none; --default_fps would stand for it"
    return ""


def _placed(recordings: Sequence[Recording], options: Options) -> list[dict[str, Any]]:
    """The plan as a table: shards of each split, in an order that tells nothing."""
    table = []
    for split, members in sorted(_by_split(recordings).items()):
        members.sort(key=lambda r: (hashlib.sha256(os.fsencode(r.id)).digest(), r.path))
        count = -(-len(members) // options.shard_videos)
        for place, recording in enumerate(members):
            name = shards.shard_name(split, place // options.shard_videos, count)
            row = dataclasses.asdict(recording)
            targets, classes = row.pop("targets"), row.pop("classes")
            # Paths may be any bytes; tables hold texts.
            path = os.fsencode(recording.path)
            names, values = list(targets), list(targets.values())
            row |= {"path": path, "shard": name, "names": names, "values": values}
            row |= {"class_names": list(classes), "class_values": list(classes.values())}
            table.append(row)
    return table


def planned(work: Work, name: str) -> Shard:
    """The shard of that name, from the plan on disk."""
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
        # Plans of earlier versions have none.
        texts = zip(row.pop("class_names", ()), row.pop("class_values", ()), strict=True)
        path = os.fsdecode(row.pop("path"))
        recording = Recording(
            **row, path=path, spacing=(down, right), targets=targets, classes=dict(texts)
        )
        parts.setdefault(name, []).append(recording)
    return [Shard(name, tuple(members)) for name, members in parts.items()]
