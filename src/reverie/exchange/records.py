"""TFRecord files and the message `tf.train.Example`: framing with checksums, and lists of values by name."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import FileError, need

MOST_RECORD = 1 << 31  # bytes; protobuf has no longer messages
MASK_DELTA = 0xA282EAD8  # of the checksums, as TFRecord's description has it


def records_of(path: Path) -> Iterator[bytes]:
    """Yield the records of a file: length, its checksum, the bytes, and their checksum (masked CRC-32C).

    Raises:
        FileError: one is cut short or damaged; the message tells where.
    """
    try:
        with path.open("rb") as file:
            while head := file.read(12):
                at = file.tell() - len(head)
                length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else None
                if (
                    length is None
                    or _masked(head[:8]) != struct.unpack("<I", head[8:])[0]
                    or length > MOST_RECORD
                ):
                    raise FileError(
                        f"{path}: wanted a record at byte {at}, got a damaged one; fetch the file again"
                    )
                data, tail = file.read(length), file.read(4)
                if len(tail) != 4 or _masked(data) != struct.unpack("<I", tail)[0]:
                    raise FileError(
                        f"{path}: wanted {length} bytes of a record at byte {at}, got them cut short or damaged; "
                        f"fetch the file again"
                    )
                yield data
    except FileError:  # which is an OSError, too
        raise
    except OSError as error:
        raise FileError(
            f"{path}: wanted a TFRecord file, got none ({error.strerror}); check the path"
        ) from error


def framed(data: bytes) -> bytes:
    """Return a record with its frame."""
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", _masked(head)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    need("google_crc32c")
    import google_crc32c

    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def values_of(data: bytes, path: Path) -> dict[str, Any]:
    """Return the lists of an Example by name: arrays of float32 or int64, and lists of bytes.

    Raises:
        FileError: it is none.
    """
    need("google")
    from google.protobuf.message import DecodeError

    try:
        example = example_class().FromString(data)
    except DecodeError as error:
        raise FileError(
            f"{path}: wanted a tf.train.Example, got another message; it is another format's"
        ) from error
    found: dict[str, Any] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else []
        found[name] = list(values) if kind in (None, "bytes_list") else np.array(values, _DTYPES[kind])
    return found


_DTYPES: dict[str, npt.DTypeLike] = {"float_list": np.float32, "int64_list": np.int64}


@cache
def example_class() -> Any:
    """Return the class of the message, made from its description: TensorFlow is not needed for it."""
    need("google")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="reverie/example.proto", package="reverie.rlds", syntax="proto3"
    )

    def message(name: str, *fields: Any) -> Any:
        made = file.message_type.add(name=name)
        made.field.extend(fields)
        return made

    def one(name: str, number: int, kind: Any, type_name: str = "", label: Any = field.LABEL_OPTIONAL) -> Any:
        made = field(name=name, number=number, type=kind, label=label)
        if type_name:
            made.type_name = f".reverie.rlds.{type_name}"
        return made

    lists = (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    )
    for name, kind in lists:
        message(name, one("value", 1, kind, label=field.LABEL_REPEATED))
    names = ("bytes_list", "float_list", "int64_list")
    feature = message("Feature", *(one(name, number + 1, field.TYPE_MESSAGE, lists[number][0])
                                   for number, name in enumerate(names)))  # fmt: skip
    feature.oneof_decl.add(name="kind")
    for each in feature.field:
        each.oneof_index = 0
    features = message(
        "Features", one("feature", 1, field.TYPE_MESSAGE, "Features.FeatureEntry", field.LABEL_REPEATED)
    )
    entry = features.nested_type.add(name="FeatureEntry")
    entry.field.extend([one("key", 1, field.TYPE_STRING), one("value", 2, field.TYPE_MESSAGE, "Feature")])
    entry.options.map_entry = True
    message("Example", one("features", 1, field.TYPE_MESSAGE, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("reverie.rlds.Example"))
