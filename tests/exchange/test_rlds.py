"""RLDS data sets: records written here by hand, and a real one."""

import json
import os
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.exchange import export_to, import_from

pytest.importorskip("google.protobuf")
pytest.importorskip("google_crc32c")
Image = pytest.importorskip("PIL.Image")

from reverie.exchange.records import example_class, framed  # noqa: E402

REAL = os.environ.get("REVERIE_DATA", "")  # the folder with real files
LENGTHS = (4, 1, 6)


def crc(data):
    """CRC-32C bit by bit, masked as TFRecord's description says: the slow twin of the checksum."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number):
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(*fields):
    """Protobuf by hand: fields of (number, bytes)."""
    return b"".join(varint(number << 3 | 2) + varint(len(data)) + data for number, data in fields)


def example(values):
    """A tf.train.Example, byte by byte, as TensorFlow writes it."""
    entries = []
    for name, value in values.items():
        if isinstance(value, list):
            feature = message((1, message(*((1, one) for one in value))))
        elif value.dtype.kind == "f":
            feature = message((2, message((1, value.astype("<f4").tobytes()))))
        else:
            feature = message((3, message((1, b"".join(varint(int(one)) for one in value)))))
        entries.append((1, message((1, name.encode()), (2, feature))))
    return message((1, message(*entries)))


def image(array, kind="PNG"):
    stream = BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def episode(number, steps, marked=True):
    """The values of one episode of `steps` rows, the last of which is the final observation if it is marked."""
    rng = np.random.default_rng(number)
    return {
        "observation/camera": rng.integers(0, 256, (steps, 8, 6, 3), np.uint8), "observation/state-x": rng.normal(size=(steps, 3)).astype(np.float32),
        "action": rng.normal(size=(steps, 2)).astype(np.float32), "reward": np.arange(steps, dtype=np.float32),
        "discount": np.ones(steps, np.float32), "count": np.arange(steps) - 2,
        "is_first": np.arange(steps) == 0, "is_last": (np.arange(steps) == steps - 1) & marked,
        "is_terminal": (np.arange(steps) == steps - 1) & marked & (number != 2), "language": [f"do {number}".encode()] * steps,
    }  # fmt: skip


FEATURES = {
    "observation": {"camera": {"image": {"shape": {"dimensions": ["8", "6", "3"]}, "dtype": "uint8", "encodingFormat": "png"}},
                    "state-x": {"tensor": {"shape": {"dimensions": ["3"]}, "dtype": "float32", "encoding": "none"}}},
    "action": {"tensor": {"shape": {"dimensions": ["2"]}, "dtype": "float32", "encoding": "none"}},
    "reward": {"tensor": {"shape": {}, "dtype": "float32", "encoding": "none"}},
    "discount": {"tensor": {"shape": {}, "dtype": "float32", "encoding": "none"}},
    "count": {"tensor": {"shape": {}, "dtype": "int32", "encoding": "none"}},
    "language": {"text": {}},
    **{name: {"tensor": {"shape": {}, "dtype": "bool", "encoding": "none"}} for name in ("is_first", "is_last", "is_terminal")},
}  # fmt: skip


def tree(features):
    nodes = {
        name: one if {"tensor", "image", "text"} & one.keys() else tree(one) for name, one in features.items()
    }
    return {"featuresDict": {"features": nodes}}


def write(folder, told=True, marked=True, kind="PNG", features=FEATURES):
    """Write two files of records, and what tells of them."""
    folder.mkdir(exist_ok=True)
    files = {0: b"", 1: b""}
    for number, steps in enumerate(LENGTHS):
        values = {f"steps/{name}": [image(one, kind) for one in rows] if name == "observation/camera" else
                  rows if isinstance(rows, list) else rows.reshape(-1) for name, rows in episode(number, steps, marked).items()}  # fmt: skip
        values["episode_metadata/id"], values["episode_metadata/file"] = (
            np.array([number]),
            [f"{number}.npy".encode()],
        )
        data = example(values)
        head = struct.pack("<Q", len(data))
        files[number > 1] += head + struct.pack("<I", crc(head)) + data + struct.pack("<I", crc(data))
    for number, content in files.items():
        (folder / f"some-train.tfrecord-0000{number}-of-00002").write_bytes(content)
    if told:
        steps = {"sequence": {"feature": tree(features)}}
        about = tree({"id": {"tensor": {"shape": {}, "dtype": "int64"}}, "file": {"text": {}}})
        (folder / "features.json").write_text(
            json.dumps({"featuresDict": {"features": {"steps": steps, "episode_metadata": about}}})
        )
    return folder


def check(found, number, marked=True):
    rows = episode(number, LENGTHS[number], marked)
    steps = LENGTHS[number] - marked
    np.testing.assert_array_equal(found.obs["camera"], rows["observation/camera"][:steps])
    np.testing.assert_array_equal(found.obs["state_x"], rows["observation/state-x"][:steps])
    for mine, theirs in ((found.action, "action"), (found.reward, "reward"), (found.extras["count"], "count"),
                         (found.extras["discount"], "discount")):  # fmt: skip
        np.testing.assert_array_equal(mine, rows[theirs][:steps])
    assert found.extras["count"].dtype == np.int32
    assert found.metadata == {"language": f"do {number}", "id": number, "file": f"{number}.npy"}
    assert found.ended == ("cut" if not marked else "truncated" if number == 2 else "terminated")
    if marked:
        np.testing.assert_array_equal(found.final_obs["camera"], rows["observation/camera"][steps])


def test_records_are_read(tmp_path):
    """Several files in order; the last row is the final observation; text that does not change is metadata."""
    told = []
    with import_from(write(tmp_path / "a"), path=tmp_path / "a.replay", tell=told.append) as buffer:
        assert told == ["1 record has a final observation alone, and so no step: left out"]
        assert buffer.episodes["length"].tolist() == [3, 5]
        for found, number in zip(buffer.read_episodes(), (0, 2), strict=True):
            check(found, number)
    assert len(import_from(tmp_path / "a/some-train.tfrecord-00001-of-00002", tell=told.append)) == 5
    with pytest.raises(rv.FileError, match="wanted TFRecord files, got none"):
        import_from(tmp_path / "a", "rlds", split="val")


def test_where_no_last_step_is_marked_the_record_is_the_episode(tmp_path):
    """Its last row is a step then, unless the caller knows better; nothing is known of what came after."""
    folder = write(tmp_path / "a", marked=False)
    buffer = import_from(folder)
    assert buffer.episodes["length"].tolist() == list(LENGTHS)
    for number, found in enumerate(buffer.read_episodes()):
        check(found, number, marked=False)
        assert found.final_obs is None
    told = []
    assert import_from(folder, last="observation", tell=told.append).episodes["length"].tolist() == [3, 5]
    marked = write(tmp_path / "b")
    assert import_from(marked, last="step").episodes["length"].tolist() == list(LENGTHS)
    with pytest.raises(rv.BadSetting, match="last: wanted 'observation' or 'step', got 'no'"):
        import_from(marked, last="no")


def test_without_features_the_lists_tell(tmp_path):
    """Shapes have one axis then, images their own; it is told."""
    told = []
    buffer = import_from(write(tmp_path / "a", told=False), tell=told.append)
    assert (
        told[0]
        == "1 data set: it has no features.json, so shapes are told from the lists, with one axis each"
    )
    assert buffer.spec.obs["camera"].shape == (8, 6, 3)
    assert buffer.spec.obs["state_x"] == rv.Field((3,), "float32")
    assert buffer.spec.action == rv.Field((2,), "float32")


def test_jpeg_is_lossy_and_asked_for_by_name(tmp_path):
    features = json.loads(json.dumps(FEATURES))
    features["observation"]["camera"]["image"]["encodingFormat"] = "jpeg"
    folder, told = write(tmp_path / "a", kind="JPEG", features=features), []
    with pytest.raises(rv.BadSetting, match=r"pass lossy=\('jpeg',\)"):
        import_from(folder)
    buffer = import_from(folder, lossy=("jpeg",), tell=told.append)
    assert told[0] == "1 data set: JPEG has changed the values of its images before they came here"
    wanted = np.asarray(Image.open(BytesIO(image(episode(0, 4)["observation/camera"][1], "JPEG"))))
    np.testing.assert_array_equal(buffer.episode(0).obs["camera"][1], wanted)


@pytest.mark.parametrize(("place", "words"), [(3, "record at byte 0, got a damaged one"), (9, "got a damaged one"), (500, "cut short or damaged"),
                                              (-2, "cut short or damaged"), (None, "cut short or damaged")])  # fmt: skip
def test_damage_is_told_with_its_place(place, words, tmp_path):
    path = write(tmp_path / "a") / "some-train.tfrecord-00000-of-00002"
    data = bytearray(path.read_bytes())
    if place is None:
        data = data[:-10]
    else:
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(rv.FileError, match=words):
        import_from(tmp_path / "a")


def test_other_messages_and_other_kinds_of_value_are_refused(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    path = folder / "x.tfrecord"
    path.write_bytes(framed(b"\xff\xff\xff"))
    with pytest.raises(rv.FileError, match=r"wanted a tf\.train\.Example, got another message"):
        import_from(folder, "rlds")
    path.write_bytes(framed(example({"a": np.arange(3)})))
    with pytest.raises(rv.FileError, match="wanted steps with is_first"):
        import_from(folder, "rlds")
    write(folder)
    path.unlink()
    for odd, words in (
        ({"tensor": {"shape": {}, "dtype": "float32", "encoding": "zlib"}}, "packed as zlib"),
        ({"video": {}}, "of another kind"),
    ):
        node = {
            "featuresDict": {
                "features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": {"x": odd}}}}}}
            }
        }
        (folder / "features.json").write_text(json.dumps(node))
        with pytest.raises(rv.FileError, match=words):
            import_from(folder)
    (folder / "features.json").write_text("{")
    with pytest.raises(rv.FileError, match="wanted features of TensorFlow Datasets"):
        import_from(folder)
    write(folder)
    with pytest.raises(rv.BadSetting, match="it is read only"):
        export_to(import_from(folder, tell=[].append), tmp_path / "out", "rlds")


def test_the_message_made_here_is_the_one_written_by_hand():
    """Our class of it reads what is packed byte by byte above, and its own bytes."""
    values = {"f": np.array([1.5, -2], np.float32), "i": np.array([3, -4]), "b": [b"x", b""]}
    read = example_class().FromString(example(values))
    assert list(read.features.feature["f"].float_list.value) == [1.5, -2]
    assert list(read.features.feature["i"].int64_list.value) == [3, -4]
    assert list(read.features.feature["b"].bytes_list.value) == [b"x", b""]
    assert example_class().FromString(read.SerializeToString()) == read


@pytest.mark.skipif(not REAL, reason="REVERIE_DATA names no folder with real files")
def test_a_real_data_set_is_read():
    """Bridge V2: 25 episodes of 10 steps of a real arm; its flags are all 0, and four cameras are JPEG."""
    told = []
    buffer = import_from(Path(REAL) / "bridge", lossy=("jpeg",), tell=told.append)
    assert (len(buffer), len(buffer.episodes)) == (250, 25)
    assert set(buffer.episodes["ended"].tolist()) == {"cut"}
    assert set(buffer.spec.obs) == {"image_0", "image_1", "image_2", "image_3", "state"}
    assert set(buffer.spec.extras) == {"discount", "language_embedding"}
    assert all(label["language_instruction"] for label in buffer.episodes.metadata)
