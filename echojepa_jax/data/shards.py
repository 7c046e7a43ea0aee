"""A folder of prepared shards: what its files are called, its index, and its face for TFDS.

    echo-SPLIT.array_record-00000-of-00004   records, see records.py
    index.parquet                            a row per record: all but the frames
    prepared.json                            how the set was prepared, units, sizes of the files
    dataset_info.json, features.json         for `tfds.builder_from_directory(folder)`

Nothing in it names a source file or a person.
"""

import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from echojepa_jax.data.formats import video_record
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils import buckets
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import whole, write_json

INDEX, PREPARED = "index.parquet", "prepared.json"
VERSION = 1
WORD = re.compile(r"[A-Za-z0-9_+/-]{0,24}")  # the form of views and of names of targets
DATASET = "echo"
_TARGET, _CLASS = "target:", "class:"  # before the names of columns of labels: numbers, and texts
_MOST_OF_CLASS = 48  # characters that the name of a class has at most
# A record is read as a whole, and JPEGs do not become smaller.
_WRITE_OPTIONS = "group_size:1,uncompressed"
_COLUMNS: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("id", "patient", "study", "view", "split"), pa.string()),
    "frames": pa.int32(),
    "fps": pa.float64(),
    "height": pa.int32(),
    "width": pa.int32(),
    "spacing": pa.list_(pa.float64()),
    "grey": pa.bool_(),
    "content": pa.string(),
    "checksum": pa.string(),
    "bytes": pa.int64(),
    "shard": pa.string(),
    "record": pa.int32(),
}
# Labels of a row, by their key; what their columns begin with, and hold.
_LABELS: Sequence[tuple[str, str, pa.DataType]] = (
    ("targets", _TARGET, pa.float64()),
    ("classes", _CLASS, pa.string()),
)


def shard_name(split: str, number: int, count: int) -> str:
    """The name that TFDS gives to a shard of that split."""
    return f"{DATASET}-{split}{video_record.SUFFIX}-{number:05d}-of-{count:05d}"


def write(path: Path, packed: Iterable[bytes]) -> int:
    """Writes records; the file appears under its name when all of it is on disk.

    Returns:
      Its size in bytes.
    """
    # Shared, because a cluster may try the same shard twice at a time.
    with whole(path, shared=True) as partial:
        writer = ArrayRecordWriter(os.fspath(partial), _WRITE_OPTIONS)
        try:
            for record in packed:
                writer.write(record)
        finally:
            writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size


def write_index(folder: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Writes everything but the shards themselves.

    Args:
      rows: for every record, in order, what `_COLUMNS` names, and `targets`; `classes` if it has
        any.
      about: how the set was prepared; goes to prepared.json.
    """
    table = {name: pa.array([row[name] for row in rows], kind) for name, kind in _COLUMNS.items()}
    for key, prefix, kind in _LABELS:
        for name in sorted({name for row in rows for name in row.get(key, ())}):
            values = [row.get(key, {}).get(name) for row in rows]
            table[f"{prefix}{name}"] = pa.array(values, kind)
    pq.write_table(pa.table(table), folder / INDEX, compression="zstd")
    files = sorted(folder.glob(f"{DATASET}-*{video_record.SUFFIX}-*"))
    facts = {
        "version": VERSION,
        "videos": len(rows),
        **about,
        "files": {file.name: file.stat().st_size for file in files},
        "index": checksum_of_index(str(folder)),
    }
    _write_tfds(folder, rows)
    # Last, because it says that the set is complete.
    write_json(folder / PREPARED, facts)


def _write_tfds(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import numpy as np
    import tensorflow_datasets as tfds  # takes a second to import

    kinds = {
        name: kind
        for name, kind in video_record.KINDS.items()
        if not name.startswith("class_") or any(row.get("classes") for row in rows)
    }
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for row in rows:
        sizes[row["shard"]] += row["bytes"]
        counts[row["shard"]] += 1
    by_split: dict[str, list[str]] = {}
    for file in sorted(folder.glob(f"{DATASET}-*{video_record.SUFFIX}-*")):
        split = file.name.removeprefix(f"{DATASET}-").partition(video_record.SUFFIX)[0]
        by_split.setdefault(split, []).append(file.name)
    template = tfds.core.ShardedFileTemplate(
        dataset_name=DATASET, data_dir=epath.Path(folder), filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(
            {name: _tfds_feature(tfds, np, name, kind) for name, kind in kinds.items()}
        ),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[counts[name] for name in names],
                num_bytes=sum(sizes[name] for name in names),
                filename_template=template.replace(split=split),
            )
            for split, names in by_split.items()
        ],
        filename_template=template,
        check_data=False,  # by tf.data, which knows no array_record
        description="Echocardiography videos prepared by echojepa_jax; frames are JPEGs.",
    )


def _tfds_feature(tfds: Any, np: Any, name: str, kind: type) -> Any:
    types = {str: np.str_, bytes: np.str_, int: np.int64, float: np.float32}
    several = name in ("frames", "spacing", "sector") or name.startswith(("target_", "class_"))
    return tfds.features.Tensor(shape=(None,) if several else (), dtype=types[kind])


def checksum_of_index(folder: str) -> str:
    """SHA-256 of the index, which prepared.json has as well.

    Raises:
      UserError: there is none.
    """
    path = epath.Path(folder) / INDEX
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from a copy") from error


def strange_columns(folder: str) -> list[str]:
    """Columns of the index that no preparation writes."""
    names = _table(folder).column_names
    words = {
        name
        for name in names
        if name.startswith((_TARGET, _CLASS)) and WORD.fullmatch(name.partition(":")[2])
    }
    return [name for name in names if name not in _COLUMNS and name not in words]


def is_class(text: str) -> bool:
    """Whether a text may be the name of a class, by its form."""
    return 0 < len(text) <= _MOST_OF_CLASS and text.isprintable()


def is_prepared(folder: str) -> bool:
    """Whether a folder holds a prepared set."""
    return (epath.Path(_expanded(folder)) / PREPARED).exists()


def _expanded(folder: str) -> str:
    return folder if buckets.is_remote(folder) else os.path.expanduser(folder)


def about(folder: str) -> dict[str, Any]:
    """How a set was prepared.

    Raises:
      UserError: there is no such set, or it is of another version.
    """
    path = epath.Path(_expanded(folder)) / PREPARED
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no prepared shards: there is no {PREPARED}; make them with "
            "python -m echojepa_jax.prepare"
        ) from error
    except ImportError as error:
        raise buckets.without_driver(folder, error) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if facts.get("version") != VERSION:
        found = facts.get("version")
        raise UserError(f"{path} is of version {found}; this program reads {VERSION}")
    return facts


def rows(folder: str) -> list[dict[str, Any]]:
    """The index, a dict for each record, with the labels that it has under "targets" (numbers) and
    "classes" (texts).

    Raises:
      UserError: it cannot be read.
    """
    table = _table(folder)
    columns = {
        key: [name for name in table.column_names if name.startswith(prefix)]
        for key, prefix, _ in _LABELS
    }
    found = []
    for row in table.to_pylist():
        for key, names in columns.items():
            values = {name.partition(":")[2]: row.pop(name) for name in names}
            row[key] = {name: value for name, value in values.items() if value is not None}
        found.append(row)
    return found


def _table(folder: str) -> pa.Table:
    path = epath.Path(folder) / INDEX
    try:
        # By its name: of a Python file, Arrow's threads may let go after Python's end, and abort.
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(path.read_bytes())
            copy.flush()
            return pq.read_table(copy.name)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from a copy") from error


def samples(folder: str, source: str) -> list[Sample]:
    """The videos of a prepared set, measured already.

    Raises:
      UserError: there is no such set, or one of its shards is missing or of another size.
    """
    if not buckets.is_remote(folder):
        folder = os.path.abspath(os.path.expanduser(folder))
    facts = about(folder)
    if not buckets.is_remote(folder):
        _check_files(folder, facts["files"])
    return [
        Sample(
            name=row["id"],
            path=f"{folder}/{row['shard']}#{row['record']}",
            source=source,
            patient=row["patient"],
            study=row["study"],
            view=row["view"],
            split=row["split"],
            targets=row["targets"],
            classes=row["classes"],
            frames=row["frames"],
            fps=row["fps"],
            height=row["height"],
            width=row["width"],
            spacing=tuple(row["spacing"]),
            grey=row["grey"],
            content=row["content"],
            still=row["frames"] == 1,
            units=facts["units"],
        )
        for row in rows(folder)
    ]


def _check_files(folder: str, files: Mapping[str, int]) -> None:
    for name, size in files.items():
        path = os.path.join(folder, name)
        found = os.path.getsize(path) if os.path.exists(path) else None
        if found != size:
            state = "missing" if found is None else f"{found} bytes long instead of {size}"
            raise UserError(f"{path} is {state}: copy the set again, or prepare it again")
