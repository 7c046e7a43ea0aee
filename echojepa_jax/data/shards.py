"""A prepared set, which is a folder of shards: its file names, its index, and its TFDS metadata.

    echo-SPLIT.array_record-00000-of-00004   records, see formats/video_record.py
    index.parquet                            one row per record: everything but the frames
    prepared.json                            how the set was prepared, units, sizes of the files
    dataset_info.json, features.json         for `tfds.builder_from_directory(folder)`

No file in the folder contains the name of a source file or of a person.
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
WORD = re.compile(r"[A-Za-z0-9_+/-]{0,24}")  # allowed views and target names
DATASET = "echo"
_TARGET, _CLASS = "target:", "class:"  # prefixes of the columns of labels: numbers, and texts
_MAX_CLASS_CHARACTERS = 48  # in the name of a class
# Each record is read alone, and JPEGs cannot be compressed further.
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
_AS_IN_A_SAMPLE = (
    *("patient", "study", "view", "split", "targets", "classes"),
    *("frames", "fps", "height", "width", "grey", "content"),
)
# The kinds of labels: key in a row, prefix of their columns, and type of their values.
_LABELS: Sequence[tuple[str, str, pa.DataType]] = (
    ("targets", _TARGET, pa.float64()),
    ("classes", _CLASS, pa.string()),
)


def shard_name(split: str, number: int, count: int) -> str:
    """The file name of a shard, as TFDS expects it."""
    return f"{DATASET}-{split}{video_record.SUFFIX}-{number:05d}-of-{count:05d}"


def write(path: Path, packed: Iterable[bytes]) -> int:
    """Writes the records of a shard; the file appears under its name once it is complete on disk.

    Returns:
      The size of the file in bytes.
    """
    # Shared, because a cluster may make the same shard twice at the same time.
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
    """Writes every file of a prepared set but the shards.

    Args:
      rows: one dict per record, in order, with the keys of `_COLUMNS`, `targets`, and `classes` if
        the record has any.
      about: how the set was prepared; written to prepared.json.
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
    # Written last, because its presence means that the set is complete.
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
        check_data=False,  # the check uses tf.data, which cannot read array_record
        description="Echocardiography videos prepared by echojepa_jax; frames are JPEGs.",
    )


def _tfds_feature(tfds: Any, np: Any, name: str, kind: type) -> Any:
    types = {str: np.str_, bytes: np.str_, int: np.int64, float: np.float32}
    several = name in ("frames", "spacing", "sector") or name.startswith(("target_", "class_"))
    return tfds.features.Tensor(shape=(None,) if several else (), dtype=types[kind])


def checksum_of_index(folder: str) -> str:
    """SHA-256 of the index; prepared.json contains the expected value.

    Raises:
      UserError: the index cannot be read.
    """
    path = epath.Path(folder) / INDEX
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from a copy") from error


def unknown_columns(folder: str) -> list[str]:
    """The columns of the index that preparation does not write."""
    names = _table(folder).column_names
    labels = {
        name
        for name in names
        if name.startswith((_TARGET, _CLASS)) and WORD.fullmatch(name.partition(":")[2])
    }
    return [name for name in names if name not in _COLUMNS and name not in labels]


def is_class(text: str) -> bool:
    """Whether a text has the form of a class name: short, and without invisible characters."""
    return 0 < len(text) <= _MAX_CLASS_CHARACTERS and text.isprintable()


def is_prepared(folder: str) -> bool:
    """Whether a folder contains a prepared set."""
    return (epath.Path(_expanded(folder)) / PREPARED).exists()


def _expanded(folder: str) -> str:
    return folder if buckets.is_remote(folder) else os.path.expanduser(folder)


def about(folder: str) -> dict[str, Any]:
    """The content of prepared.json: how a set was prepared.

    Raises:
      UserError: there is no such set, or another version of the program wrote it.
    """
    path = epath.Path(_expanded(folder)) / PREPARED
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a prepared set, because it has no {PREPARED}: make one with "
            "python -m echojepa_jax.prepare"
        ) from error
    except ImportError as error:
        raise buckets.without_driver(folder, error) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from a copy") from error
    if facts.get("version") != VERSION:
        found = facts.get("version")
        raise UserError(
            f"{path} has version {found}, and this program reads version {VERSION}: prepare the "
            "set again"
        )
    return facts


def rows(folder: str) -> list[dict[str, Any]]:
    """The index: one dict per record, with its labels under "targets" (numbers) and "classes".

    Raises:
      UserError: the index cannot be read.
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
        # Arrow gets a file name, because its threads may release a Python file after Python has
        # ended, which aborts the process.
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(path.read_bytes())
            copy.flush()
            return pq.read_table(copy.name)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from a copy") from error


def samples(folder: str, source: str) -> list[Sample]:
    """The videos of a prepared set with their facts from the index.

    Raises:
      UserError: there is no such set, or one of its shards is missing or has another size.
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
            **{name: row[name] for name in _AS_IN_A_SAMPLE},
            spacing=tuple(row["spacing"]),
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
