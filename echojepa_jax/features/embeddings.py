"""Embeddings of an archive: Parquet shards in input order, restartable, equal on any machine.

A folder of embeddings contains `_settings.json` (the settings and the fingerprint of the weights),
shards `embeddings-00000-of-00012.parquet` and so on, and with --tokens=all a file
`tokens-00000-of-00012.array_record` beside each. A shard gets its name when it is complete. A
second start verifies the existing shards by their checksums, and makes the missing ones. Readers of
Parquet that are given the folder ignore names that begin with "_". (Folders of earlier versions
have a `settings.json`.)

Columns of a shard, one row per clip: `source, name, patient, study, view, split` of the video;
`row`, its position in the input, and `clip`, the number of the clip in it; `padded`, frames that
repeat the last one of a short video; `error`, why it could not be decoded, or ""; `embedding`, the
mean of the encoder's tokens, null if there is an error. The file's metadata has the settings.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from safetensors.numpy import save as as_safetensors

from echojepa_jax.data import manifest
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.features.encode import EncodedClips, FrozenEncoder, divided, with_repeats
from echojepa_jax.utils.config_fields import differences
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown
from echojepa_jax.utils.files import PARTIAL, whole, write_json
from echojepa_jax.utils.progress import SECONDS_BETWEEN_LINES, duration
from echojepa_jax.weights.pretrained import Pretrained, fingerprint

log = logging.getLogger(__name__)

SETTINGS, QUARANTINE, STUDIES = "_settings.json", "_quarantine.jsonl", "studies.parquet"
_OLD_SETTINGS, _OLD_QUARANTINE = "settings.json", "quarantine.jsonl"
_TEXTS = ("source", "name", "patient", "study", "view", "split")
_KEY = b"echojepa_jax"  # of our entry in a Parquet file's metadata


@dataclasses.dataclass(frozen=True)
class EmbedSettings:
    """How clips are cut and encoded, and how the rows are divided.

    clips: of every video, spread over it. tokens: "mean", or "all" to keep every token as well.
    dtype: of the computation. batch: clips that a device encodes at a time. shard_videos: videos
    per shard, a multiple of `batch`.
    """

    clip: ClipSpec
    clips: int = 1
    tokens: str = "mean"
    dtype: str = "float32"
    batch: int = 8
    shard_videos: int = 1024

    def __post_init__(self) -> None:
        if min(self.clips, self.batch, self.shard_videos) < 1:
            raise UserError("--clips, --batch and --shard_videos must be positive")
        if self.shard_videos % self.batch:
            # A multiple keeps a clip's place in its batch, and so its bits, the same in every run.
            near = max(1, round(self.shard_videos / self.batch)) * self.batch
            raise UserError(
                f"--shard_videos={self.shard_videos} is not a multiple of --batch={self.batch}; "
                f"the nearest is {near}"
            )


@dataclasses.dataclass(frozen=True)
class Shard:
    """Samples `first` to `last` (excluded) of the input, and their file."""

    path: Path
    first: int
    last: int

    def tokens_path(self) -> Path:
        return self.path.with_name(
            self.path.name.replace("embeddings", "tokens").replace(".parquet", ".array_record")
        )


def plan(out: Path, samples: int, shard_videos: int) -> list[Shard]:
    """The shards of an archive."""
    count = -(-samples // shard_videos)
    return [
        Shard(
            out / f"embeddings-{i:05d}-of-{count:05d}.parquet",
            i * shard_videos,
            min(samples, (i + 1) * shard_videos),
        )
        for i in range(count)
    ]


def embed(
    weights: Pretrained,
    samples: Sequence[Sample],
    out: Path,
    settings: EmbedSettings,
    *,
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
    by_study: bool = False,
) -> str:
    """Makes the missing shards of this host; returns a sentence about what exists now.

    Args:
      samples: the whole input, the same on every host.
      by_study: also write `studies.parquet` once all shards exist.

    Raises:
      UserError: `out` contains embeddings of other weights, data or settings, or cannot be written.
    """
    if by_study and not any(sample.study for sample in samples):
        raise UserError("--by_study needs studies, but the sources have none")
    if not 0 <= host < hosts:
        raise UserError(f"--host={host} must be from 0 to {hosts - 1}, because --hosts is {hosts}")
    asked = {
        "encoder": fingerprint(weights.params["encoder"]),
        "mean": list(weights.clip.mean),
        "std": list(weights.clip.std),
        "data": manifest.fingerprint(samples),
        "videos": len(samples),
        **json.loads(json.dumps(dataclasses.asdict(settings) | {"clip": settings.clip.facts()})),
    }
    _claim(out, asked)
    shards = plan(out, len(samples), settings.shard_videos)
    text = json.dumps(asked)
    todo = []
    for shard in shards[host::hosts]:
        problem = _problem(shard, samples, settings, text)
        if problem and shard.path.exists():
            log.warning("%s is made again: %s", shard.path.name, problem)
        if problem:
            todo.append(shard)
    done = len(shards[host::hosts]) - len(todo)
    if done:
        log.info("%d of %d shards already exist and are complete", done, done + len(todo))
    try:
        pieces = _pieces(weights, samples, todo, settings, workers)
        for shard, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
            _write(shard, samples, (piece for _, piece in group), settings, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    missing = [shard for shard in shards if not shard.path.exists()]
    if missing:
        left = counted(len(missing), "shard")
        return f"host {host} of {hosts} is done; still to come from other hosts: {left}"
    rows, bad = _count(shards)
    if rows != len(samples) * settings.clips:
        raise RuntimeError(f"{rows} rows were written for {len(samples) * settings.clips} clips")
    if by_study:
        _write_studies(out, shards)
    unreadable = f"; {bad} of them could not be decoded, see column 'error'" if bad else ""
    return (
        f"{out} contains {counted(rows, 'clip')} of {counted(len(samples), 'video')} in "
        f"{counted(len(shards), 'shard')}{unreadable}"
    )


def check_folder(out: Path) -> None:
    """Raises UserError if `out` contains anything but embeddings."""
    try:
        found = [path.name for path in out.iterdir()] if out.exists() else []
    except OSError as error:
        raise UserError(f"--out={out} cannot be used: {error.strerror}") from error
    # The list of rejected files is written while the input is read; another host may be starting.
    names = {name for name in found if not name.endswith(PARTIAL)}
    if names - {QUARANTINE, _OLD_QUARANTINE} and not names & {SETTINGS, _OLD_SETTINGS}:
        raise UserError(f"{out} is not empty and does not contain embeddings: give another --out")


def _claim(out: Path, asked: dict[str, Any]) -> None:
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = out / SETTINGS
        if not path.exists() and (out / _OLD_SETTINGS).exists():
            path = out / _OLD_SETTINGS
        # Without a shard, the settings belong to a run that was stopped before it wrote anything.
        if not path.exists() or not any(out.glob("embeddings-*")):
            write_json(out / SETTINGS, asked)
            return
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--out={out} cannot be used: {error}") from error
    if differ := differences(found, asked):
        raise UserError(
            f"{out} contains embeddings that differ in {', '.join(differ)}: use the same values "
            "or another --out"
        )


def _pieces(
    weights: Pretrained,
    samples: Sequence[Sample],
    todo: Sequence[Shard],
    settings: EmbedSettings,
    workers: int,
) -> Iterator[tuple[Shard, EncodedClips]]:
    """Encodes the videos of all these shards as one stream, and divides it into shards."""
    chosen = [sample for shard in todo for sample in samples[shard.first : shard.last]]
    if not chosen:
        return
    encoder = FrozenEncoder.of(
        weights, settings.dtype, settings.clip, settings.clips, keep=settings.tokens
    )
    repeats = _repeats(encoder.repeats(chosen), todo, settings.batch)
    stream = encoder.encode(chosen, ~repeats, settings.batch, workers)
    sizes = [(shard.last - shard.first) * settings.clips for shard in todo]
    for part, piece in divided(_logged(with_repeats(stream, repeats), sum(sizes)), sizes):
        yield todo[part], piece


def _repeats(repeats: np.ndarray, todo: Sequence[Shard], batch: int) -> np.ndarray:
    """The clips that are copied from the clip before instead of encoded: bool [videos, clips].

    Some repeats are encoded nevertheless: every shard but the last must fill whole batches, so that
    its clips have the same places in a batch, and the same bits, when it is made separately.
    """
    repeats, first = repeats.copy(), 0
    for shard in todo[:-1]:
        last = first + shard.last - shard.first
        of_shard = repeats[first:last].reshape(-1)  # a view
        missing = -np.count_nonzero(~of_shard) % batch
        of_shard[np.flatnonzero(of_shard)[:missing]] = False
        first = last
    return repeats


def _logged(stream: Iterable[EncodedClips], total: int) -> Iterator[EncodedClips]:
    """Passes on a stream of `total` clips, and logs its progress."""
    started, last_line, made = time.monotonic(), 0.0, 0
    compiled: tuple[int, float] | None = None  # clips and time after the first batch
    for batch in stream:
        yield batch
        made += len(batch.rows)
        now = time.monotonic()
        if compiled is None:
            compiled, last_line = (made, now), now
        elif now - last_line >= SECONDS_BETWEEN_LINES:
            last_line, rate = now, (made - compiled[0]) / (now - compiled[1])
            left = f", {duration((total - made) / rate)} left" if made < total else ""
            log.info("embedding: %d of %d clips, %.1f clips/s%s", made, total, rate, left)
    log.info(
        "embedded %s at %.1f clips/s", counted(made, "clip"), made / (time.monotonic() - started)
    )


def _identity(shard: Shard, samples: Sequence[Sample], clips: int) -> dict[str, list[Any]]:
    """The columns that identify the clip of a row."""
    rows = [row for row in range(shard.first, shard.last) for _ in range(clips)]
    columns: dict[str, list[Any]] = {
        name: [getattr(samples[row], name) for row in rows] for name in _TEXTS
    }
    columns["source"] = [shown(source) for source in columns["source"]]
    columns["row"] = rows
    columns["clip"] = [clip for _ in range(shard.first, shard.last) for clip in range(clips)]
    return columns


def _write(
    shard: Shard,
    samples: Sequence[Sample],
    pieces: Iterable[EncodedClips],
    settings: EmbedSettings,
    asked: str,
) -> None:
    columns = _identity(shard, samples, settings.clips)
    means, errors, padded = [], [], []
    with contextlib.ExitStack() as stack:
        write = None
        if settings.tokens == "all":
            write = stack.enter_context(_token_writer(shard.tokens_path(), columns))
        for piece in pieces:
            if write:
                write(piece)
            means.append(piece.tokens.mean(axis=1, dtype=np.float32))
            errors.append(piece.errors)
            padded.append(piece.padded)
    bad = np.concatenate(errors) != ""
    values = np.concatenate(means)
    flat = pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), values.shape[1], mask=pa.array(bad)
    )
    schema = pa.schema(
        [
            *((name, pa.string()) for name in _TEXTS),
            ("row", pa.int64()),
            ("clip", pa.int32()),
            ("padded", pa.int32()),
            ("error", pa.string()),
            ("embedding", pa.list_(pa.float32())),
        ],
        metadata={_KEY: asked.encode()},
    )
    table = pa.table(
        {
            **columns,
            "padded": np.concatenate(padded).tolist(),
            "error": np.concatenate(errors).tolist(),
            "embedding": flat.cast(pa.list_(pa.float32())),
        },
        schema=schema,
    )
    _publish(table, shard.path)


def _publish(table: pa.Table, path: Path) -> None:
    """Writes a file that is complete as soon as it exists; its pages have checksums."""
    with whole(path, shared=True) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


@contextlib.contextmanager
def _token_writer(
    path: Path, columns: dict[str, list[Any]]
) -> Iterator[Callable[[EncodedClips], None]]:
    """Writes a record for each clip that could be decoded: safetensors bytes with its columns."""
    clips = itertools.count()
    with whole(path) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1")

        def write(piece: EncodedClips) -> None:
            for tokens, error, clip in zip(piece.tokens, piece.errors, clips, strict=False):
                if not error:
                    named = {name: str(values[clip]) for name, values in columns.items()}
                    writer.write(as_safetensors({"tokens": tokens}, metadata=named))

        try:
            yield write
        finally:
            writer.close()


def _read(path: Path) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True)


def _problem(
    shard: Shard, samples: Sequence[Sample], settings: EmbedSettings, asked: str
) -> str | None:
    """Why a shard must be made; None if it exists, complete and with these settings (F12)."""
    if not shard.path.exists():
        return "it does not exist"
    try:
        table = _read(shard.path)
        found = table.schema.metadata[_KEY].decode()
        errors = table["error"].to_pylist()
        if settings.tokens == "all":
            reader = ArrayRecordReader(str(shard.tokens_path()))
            count = reader.num_records()
            if count != errors.count(""):
                return "some of its tokens are missing"
            for i in range(count):
                reader.read([i])  # verifies the checksum
    # Arrow, array_record and JSON raise errors of many types on a damaged file.
    except Exception as error:
        return f"it cannot be read ({' '.join(str(error).split())[:200]})"
    if found != asked:
        return "it was made with other settings"
    identity = _identity(shard, samples, settings.clips)
    if any(table[name].to_pylist() != values for name, values in identity.items()):
        return "it contains other clips"
    return None


def _count(shards: Sequence[Shard]) -> tuple[int, int]:
    """Rows, and rows with an error."""
    rows = bad = 0
    for shard in shards:
        errors = pq.read_table(shard.path, columns=["error"])["error"].to_pylist()
        rows += len(errors)
        bad += len(errors) - errors.count("")
    return rows, bad


def _write_studies(out: Path, shards: Sequence[Shard]) -> None:
    """The mean embedding of every study's clips, in order of first appearance."""
    sums: dict[tuple[str, str], np.ndarray] = {}
    facts: dict[tuple[str, str], tuple[str, int]] = {}
    for shard in shards:
        table = pq.read_table(shard.path, columns=["source", "study", "patient", "embedding"])
        for source, study, patient, embedding in zip(
            *(table[name].to_pylist() for name in ("source", "study", "patient")),
            table["embedding"].to_numpy(),
            strict=True,
        ):
            if not study or embedding is None:
                continue
            key = source, study
            _, count = facts.get(key, (patient, 0))
            facts[key] = patient, count + 1
            sums[key] = sums.get(key, 0.0) + embedding.astype(np.float64)
    table = pa.table(
        {
            "source": [source for source, _ in sums],
            "study": [study for _, study in sums],
            "patient": [facts[key][0] for key in sums],
            "clips": [facts[key][1] for key in sums],
            "embedding": pa.array(
                [(sums[key] / facts[key][1]).astype(np.float32) for key in sums],
                pa.list_(pa.float32()),
            ),
        }
    )
    _publish(table, out / STUDIES)
