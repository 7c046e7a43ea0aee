"""One video as a record of a shard: a tf.Example with a JPEG for every frame.

The record is TensorFlow's message, so that TFDS and TensorFlow can read the shards. It is defined
again here, because training does not need TensorFlow. A record is named "FILE#NUMBER".

    frames            bytes [T]: JPEGs, with one channel if the video is grey
    id, patient, study, view, content, checksum
                      text; content is the SHA-256 of the source's coded pictures, checksum that of
                      `frames`
    fps               frames a second; 0 = unknown
    height, width     size of a frame in pixels
    spacing           mm between pixels, down and right; 0 = unknown
    sector            x, y, x, y ... corners of the ultrasound sector in pixels; everything outside
                      is black. Empty = frames were not cut to a sector
    target_names, target_values
                      labels that are numbers
    class_names, class_values
                      labels that are texts; sets of earlier versions have none
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from echojepa_jax.data.formats import bucket_cache
from echojepa_jax.data.formats.video_info import UnreadableVideo, VideoInfo, fewer_frames
from echojepa_jax.utils.errors import first_line

SUFFIX = ".array_record"
# Every feature, and the type of its values.
KINDS: Mapping[str, type] = {
    **dict.fromkeys(("id", "patient", "study", "view", "content", "checksum"), str),
    "frames": bytes,
    "fps": float,
    "height": int,
    "width": int,
    "spacing": float,
    "sector": int,
    "target_names": str,
    "target_values": float,
    "class_names": str,
    "class_values": str,
}
_LATER = ("class_names", "class_values")  # features that records of earlier versions lack
# Random access: only the requested record is read.
_READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_OPEN_FILES = 256

Features = Mapping[str, Sequence[Any]]


def is_record(path: str) -> bool:
    """Whether a path names a record of a shard."""
    file, _, number = path.rpartition("#")
    return number.isdigit() and SUFFIX in file


def probe(path: str) -> VideoInfo:
    """The facts of a record.

    Raises:
      UnreadableVideo: there is no such record, or it is damaged.
    """
    features = read(path)
    (height,), (width,), (fps,) = features["height"], features["width"], features["fps"]
    down, right = features["spacing"]
    return VideoInfo(len(features["frames"]), fps, height, width, spacing=(down, right))


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as uint8 [H, W, 3], or [H, W, 1] if grey.

    Raises:
      UnreadableVideo: the record is missing, damaged, or has fewer frames.
    """
    yield from decode_frames(fetch(path), ids)


def decode_frames(record: bytes, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """As `frames`, for the bytes of a record."""
    jpegs = _parsed(record).features.feature["frames"].bytes_list.value
    if ids[-1] >= len(jpegs):
        raise fewer_frames(len(jpegs), ids[-1])
    for k in ids:
        image = cv2.imdecode(np.frombuffer(jpegs[k], np.uint8), cv2.IMREAD_ANYCOLOR)
        if image is None:
            raise UnreadableVideo(f"damaged: frame {k} does not decode")
        yield image[..., None] if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def content(path: str) -> str:
    """The content hash of the source, which stays the same if a prepared set is prepared again.

    Raises:
      UnreadableVideo: there is no such record, or it is damaged.
    """
    return str(read(path)["content"][0])


def read(path: str) -> dict[str, list[Any]]:
    """All features of a record.

    Raises:
      UnreadableVideo: there is no such record, or it is damaged.
    """
    return unpack(fetch(path))


def fetch(path: str) -> bytes:
    """The bytes of a record.

    Raises:
      UnreadableVideo: there is no such record.
    """
    file, _, number = path.rpartition("#")
    try:
        record: bytes = _reader(bucket_cache.local(file)).read([int(number)])[0]
    # RuntimeError means a missing or damaged file, IndexError a number that is too high.
    except (RuntimeError, IndexError, OSError, ValueError) as error:
        reason = first_line(error, 100)
        raise UnreadableVideo(f"damaged: the record cannot be read ({reason})") from error
    return record


def count(file: str) -> int:
    """The number of records in a shard; 0 if it cannot be read, which `read` reports."""
    try:
        return int(_reader(file).num_records())
    except (RuntimeError, OSError, ValueError):
        return 0


@functools.lru_cache(_OPEN_FILES)
def _reader(file: str) -> ArrayRecordReader:
    return ArrayRecordReader(file, _READ_OPTIONS)


def pack(features: Features) -> bytes:
    """Packs features, all of those in KINDS, into the bytes of a record, deterministically."""
    example = _Example()
    for name, kind in KINDS.items():
        feature, values = example.features.feature[name], features[name]
        if kind is str:
            feature.bytes_list.value.extend(str(value).encode() for value in values)
        elif kind is bytes:
            feature.bytes_list.value.extend(values)
        elif kind is int:
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def unpack(record: bytes) -> dict[str, list[Any]]:
    """The features of a record by name, also those that KINDS does not contain.

    Raises:
      UnreadableVideo: the bytes are not such a record.
    """
    features: dict[str, list[Any]] = {}
    for name, feature in _parsed(record).features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        if KINDS.get(name) is str:
            values = [value.decode("utf-8", "replace") for value in values]
        features[name] = values
    features = {name: [] for name in _LATER} | features
    if lacking := sorted(set(KINDS) - set(features)):
        raise UnreadableVideo(f"damaged: the record lacks {', '.join(lacking)}")
    return features


def checksum(jpegs: Sequence[bytes]) -> str:
    """SHA-256 of coded frames."""
    digest = hashlib.sha256()
    for jpeg in jpegs:
        digest.update(jpeg)
    return digest.hexdigest()


def _parsed(record: bytes) -> Any:
    try:
        return _Example.FromString(record)
    except DecodeError as error:
        raise UnreadableVideo("damaged: the record is not a video") from error


def _define() -> Any:
    """tf.Example (tensorflow/core/example), in a separate pool, as TensorFlow may be loaded too."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name: str) -> descriptor_pb2.DescriptorProto:
        return file.message_type.add(name=name)

    def add(into: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any, **more) -> Any:
        return into.field.add(
            name=name,
            number=number,
            type=kind,
            label=more.pop("label", field.LABEL_OPTIONAL),
            **more,
        )

    repeated = {"label": field.LABEL_REPEATED}
    lists = {
        "BytesList": field.TYPE_BYTES,
        "FloatList": field.TYPE_FLOAT,
        "Int64List": field.TYPE_INT64,
    }
    for name, kind in lists.items():
        add(message(name), "value", 1, kind, **repeated)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(lists, start=1):
        key = name.removesuffix("List").lower() + "_list"
        add(feature, key, number, field.TYPE_MESSAGE, type_name=f".t.{name}", oneof_index=0)
    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, type_name=".t.Feature")
    add(
        features, "feature", 1, field.TYPE_MESSAGE, type_name=".t.Features.FeatureEntry", **repeated
    )
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, type_name=".t.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


_Example = _define()
