"""One video as a record of prepared shards: a tf.Example with a JPEG for every frame.

The message is TensorFlow's, so that TFDS and TensorFlow read the shards as well; it is defined here
once more because neither is needed to train. A record is named "FILE#NUMBER".

    frames            bytes [T]: JPEGs, grey ones of grey videos
    id, patient, study, view, content, checksum
                      text; content is the SHA-256 of the source's coded pictures, checksum that of
                      `frames`
    fps               frames a second at which the video was taken; 0 = unknown
    height, width     pixels of a frame
    spacing           mm between pixels, down and right; 0 = unknown
    sector            x, y, x, y ... corners of the ultrasound sector in pixels; outside of it
                      everything was made black. Empty: nothing was
    target_names, target_values
                      labels that are numbers
    class_names, class_values
                      labels that are texts; sets that were prepared earlier have none
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
# Every feature, and of what its values are.
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
# Random access: nothing but the record that is asked for is read.
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
      UnreadableVideo: no such record, a damaged one, or fewer frames than asked for.
    """
    yield from decode_frames(fetch(path), ids)


def decode_frames(record: bytes, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """The same of a record that was fetched."""
    jpegs = _parsed(record).features.feature["frames"].bytes_list.value
    if ids[-1] >= len(jpegs):
        raise fewer_frames(len(jpegs), ids[-1])
    for k in ids:
        image = cv2.imdecode(np.frombuffer(jpegs[k], np.uint8), cv2.IMREAD_ANYCOLOR)
        if image is None:
            raise UnreadableVideo(f"damaged: frame {k} does not decode")
        yield image[..., None] if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def content(path: str) -> str:
    """What the record says of its source's content: so sets that were prepared again know it too.

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
    # It raises RuntimeError for what is wrong with the file, IndexError for a number too high.
    except (RuntimeError, IndexError, OSError, ValueError) as error:
        reason = first_line(error, 100)
        raise UnreadableVideo(f"damaged: the shard does not give this record ({reason})") from error
    return record


def count(file: str) -> int:
    """How many records a shard holds; 0 if it cannot be read, as reading one will tell."""
    try:
        return int(_reader(file).num_records())
    except (RuntimeError, OSError, ValueError):
        return 0


@functools.lru_cache(_OPEN_FILES)
def _reader(file: str) -> ArrayRecordReader:
    return ArrayRecordReader(file, _READ_OPTIONS)


def pack(features: Features) -> bytes:
    """A record as bytes, the same ones for the same features, which are all of KINDS."""
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
    """The features of a record, by name; those that KINDS does not name are bytes where possible.

    Raises:
      UnreadableVideo: these bytes are no such record.
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
        raise UnreadableVideo("damaged: the record is no video") from error


def _define() -> Any:
    """tf.Example (tensorflow/core/example), in a pool of its own: TensorFlow may be loaded too."""
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
