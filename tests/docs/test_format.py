"""docs/format.md: a reader written from that page alone reads what was added, and the page's commands run."""

import json
import re
import shlex
import shutil
import sqlite3
import struct
import subprocess
import zlib
from collections import defaultdict
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard

PAGE = (Path(__file__).parents[2] / "docs/format.md").read_text()
DATA = Path(__file__).parents[1] / "data"

# --- the reader: nothing here knows reverie, only the page ---------------------------------------------------


def crc_of_row(numbers: tuple, form: str, blobs: list) -> bytes:
    first = zlib.crc32(struct.pack(form, *numbers))
    crcs = [first] + [first ^ 0xFFFFFFFF if blob is None else zlib.crc32(blob, first) for blob in blobs]
    return b"".join(crc.to_bytes(4, "little") for crc in crcs)


def leaves(name: str, tree: object):
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from leaves(f"{name}/{key}", child)
    else:
        yield name, (tuple(tree[0]), np.dtype(tree[1]))


class Reader:
    """Reads a replay file.

    `steps[stream, id]` maps columns to values; `episodes` lists (stream, ordinal, start, stop, ended, total,
    final observation by column or None) of the live ones, by number; `meta` and `arrays` are by name.
    """

    def __init__(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA application_id").fetchone() == (0x72657665,)
            [version] = db.execute("PRAGMA user_version").fetchone()
            assert version in (1, 2, 3)
            self.labels = {}
            for number, value, checksum in db.execute("SELECT * FROM labels") if version >= 2 else ():
                assert zlib.crc32(f"{number}\0{value}".encode()) == checksum
                self.labels[number] = json.loads(value)
            self.meta = {}
            for name, value, checksum in db.execute("SELECT name, value, checksum FROM meta"):
                assert zlib.crc32(name.encode() + b"\0" + value.encode()) == checksum
                self.meta[name] = json.loads(value)
            self.arrays = {}
            for name, form, checksum, data in db.execute("SELECT name, form, checksum, data FROM arrays"):
                assert zlib.crc32(data, zlib.crc32(name.encode() + b"\0" + form.encode())) == checksum
                dtype, *shape = form.split(" ")
                shape = tuple(map(int, shape))
                value = np.frombuffer(self.bytes_of(data), dtype) if 0 not in shape else np.zeros(0, dtype)
                self.arrays[name] = value.reshape(shape)
            spec = self.meta["spec"]
            self.fields = dict([*leaves("obs", spec["obs"]), *leaves("action", spec["action"]),
                                *leaves("extras", spec["extras"]), ("reward", ((), np.dtype("<f4")))])  # fmt: skip
            self.columns, self.obs = self.meta["columns"], self.meta["obs_columns"]
            assert sorted(self.columns) == sorted(self.fields)
            self.each = self.meta["capacity"] // self.meta["streams"]
            self.read(db)

    @staticmethod
    def bytes_of(blob: bytes) -> bytes:
        kind, rest = blob[0], blob[1:]
        return rest if kind == 0 else zstandard.ZstdDecompressor().decompress(rest)

    def value(self, name: str, raw: bytes, *lead: int) -> np.ndarray:
        shape, dtype = self.fields[name]
        return np.frombuffer(raw, dtype).reshape((*lead, *shape))

    def final(self, blobs: list) -> dict | None:
        if blobs[0] is None:
            assert set(blobs) == {None}
            return None
        return {
            name: self.value(name, self.bytes_of(blob)) for name, blob in zip(self.obs, blobs, strict=True)
        }

    def read(self, db: sqlite3.Connection) -> None:
        count = len(self.columns)
        self.steps, runs, newest, table = {}, defaultdict(list), defaultdict(list), defaultdict(list)
        for number, stream, first, steps, crcs, *blobs in db.execute(
            "SELECT * FROM runs ORDER BY stream, first"
        ):
            assert crcs == crc_of_row((number, stream, first, steps), "<4q", blobs)
            assert number == stream * -(-self.each // 32) + first % self.each // 32
            assert first % self.each % 32 == 0
            assert steps == min(32, self.each - first % self.each)
            runs[stream].append((first, steps))
            values = {}
            for name, blob in zip(self.columns, blobs, strict=True):
                assert blob[0] in (0, 1)
                values[name] = self.value(name, self.bytes_of(blob), steps)
            for row in range(steps):
                self.steps[stream, first + row] = {name: array[row] for name, array in values.items()}
        for number, stream, step, ended, crcs, *blobs in db.execute(
            "SELECT * FROM steps ORDER BY stream, id"
        ):
            assert crcs == crc_of_row((number, stream, step, ended), "<4q", blobs)
            assert number == stream * 32 + step % 32
            end = sum(runs[stream][-1]) if runs[stream] else 0
            if step < end:
                continue  # stale
            assert step == (newest[stream][-1][0] + 1 if newest[stream] else end)
            raw = {}
            for name, blob in zip(self.columns, blobs[:count], strict=True):
                raw[name] = self.bytes_of(blob)
                if blob[0] == 2:
                    before = newest[stream][-1][3][name]
                    raw[name] = bytes(new ^ old for new, old in zip(raw[name], before, strict=True))
            newest[stream].append((step, ended, self.final(blobs[count:]), raw))
            self.steps[stream, step] = {name: self.value(name, value) for name, value in raw.items()}
        for number, stream, ordinal, start, stop, ended, total, crcs, *blobs in db.execute(
            "SELECT * FROM episodes ORDER BY stream, ordinal"
        ):
            assert crcs == crc_of_row((number, stream, ordinal, start, stop, ended, total), "<6qd", blobs)
            table[stream].append([number, stream, ordinal, start, stop, ended, total, self.final(blobs)])
        self.live, episodes = {}, []
        for stream in range(self.meta["streams"]):
            head = (
                newest[stream][-1][0] + 1 if newest[stream] else sum(runs[stream][-1]) if runs[stream] else 0
            )
            floor = self.meta["floors"][stream] if self.meta.get("floors") else 0
            tail = max(head - self.each, runs[stream][0][0] if runs[stream] else 0, floor)
            for step, ended, final, raw in newest[stream]:
                if step < tail:
                    continue
                episode = [one for one in table[stream] if one[3] <= step][-1]
                if episode[4] > step:
                    continue
                assert episode[4] == step
                assert episode[5] == 0
                episode[4:] = step + 1, ended, episode[6] + float(self.value("reward", raw["reward"])), final
            self.live[stream] = tail, head
            live = [one for one in table[stream] if max(one[3], tail) < one[4]]
            for one, after in pairwise(live):
                assert (one[4], one[2] + 1) == (after[3], after[2])
                assert one[5] != 0
            assert not live or (live[0][3] <= tail and live[-1][4] == head)
            episodes += live
        self.episodes = [tuple(one[1:]) for one in sorted(episodes, key=lambda one: one[0])]
        self.steps = {(stream, step): value for (stream, step), value in self.steps.items()
                      if self.live[stream][0] <= step < self.live[stream][1]}  # fmt: skip


# --- what it is compared with --------------------------------------------------------------------------------


def make(path: Path, **settings):
    import reverie as rv

    obs = {"camera": rv.Field((3, 8, 9), "uint8"), "Camera": rv.Field((2, 2), "float64"),
           "body": {"touch": rv.Field((), "bool")}}  # fmt: skip
    extras = {"clock": rv.Field((), "int64"), "latent": rv.Field((50,), "float32")}
    spec = rv.StepSpec(obs, rv.Field((2,), "float32"), extras)
    return rv.ReplayBuffer(spec, path=path, seed=0, **settings)


class Scribe:
    """Adds random steps to a buffer, and writes down what it added as a reader should find it."""

    def __init__(self, buffer, seed: int) -> None:
        self.buffer, self.rng = buffer, np.random.default_rng(seed)
        self.each = buffer.capacity // buffer.streams
        self.steps, self.heads = {}, [0] * buffer.streams
        self.episodes = []  # in the order they began
        self.open = [None] * buffer.streams

    def obs(self) -> dict:
        camera = np.zeros((3, 8, 9), np.uint8)
        camera[:, self.rng.integers(8)] = self.rng.integers(256)
        return {
            "camera": camera,
            "Camera": self.rng.normal(size=(2, 2)),
            "body": {"touch": self.rng.random() < 0.5},
        }

    def add(self, stream: int) -> None:
        obs, final = self.obs(), None
        ended = int(self.rng.choice([0] * 12 + [1, 2, 3]))
        if ended and self.rng.random() < 0.6:
            final = self.obs()
        values = {"action": self.rng.normal(size=2).astype(np.float32), "reward": float(self.rng.integers(-4, 5)) / 4,
                  "clock": int(self.rng.integers(2**60)), "latent": self.rng.normal(size=50).astype(np.float32)}  # fmt: skip
        self.buffer.add(obs=obs, stream=stream, terminated=bool(ended & 1), truncated=bool(ended & 2),
                        final_obs=final, **values)  # fmt: skip
        step = self.heads[stream]
        self.heads[stream] += 1
        self.steps[stream, step] = {**self.flat(obs), "action": values["action"], "reward": np.float32(values["reward"]),
                                    "extras/clock": values["clock"], "extras/latent": values["latent"]}  # fmt: skip
        if self.open[stream] is None:
            ordinal = sum(one[0] == stream for one in self.episodes)
            self.open[stream] = [stream, ordinal, step, step, 0, 0.0, None]
            self.episodes.append(self.open[stream])
        episode = self.open[stream]
        episode[3:] = step + 1, ended, episode[5] + values["reward"], final and self.flat(final)
        if ended:
            self.open[stream] = None

    def cut(self, stream: int, shown: bool) -> None:
        final = self.obs() if shown and self.open[stream] else None
        self.buffer.cut(stream, final_obs=final)
        if self.open[stream]:
            self.open[stream][4], self.open[stream][6] = 4, final and self.flat(final)
            self.open[stream] = None

    def go_on(self, count: int) -> None:
        for _ in range(count):
            stream = int(self.rng.integers(self.buffer.streams))
            if self.rng.random() < 0.02:
                self.cut(stream, self.rng.random() < 0.5)
            self.add(stream)

    @staticmethod
    def flat(obs: dict) -> dict:
        return {
            "obs/camera": obs["camera"],
            "obs/Camera": obs["Camera"],
            "obs/body/touch": obs["body"]["touch"],
        }

    def assert_found(self, reader: Reader) -> None:
        tails = [max(head - self.each, 0) for head in self.heads]
        assert reader.live == {stream: (tails[stream], head) for stream, head in enumerate(self.heads)}
        wanted = {key: value for key, value in self.steps.items() if key[1] >= tails[key[0]]}
        assert reader.steps.keys() == wanted.keys()
        for key, values in wanted.items():
            assert reader.steps[key].keys() == values.keys()
            for name, value in values.items():
                np.testing.assert_array_equal(reader.steps[key][name], value, err_msg=f"{key} {name}")
        live = [one for one in self.episodes if one[3] > tails[one[0]]]
        assert [one[:6] for one in live] == [list(one[:6]) for one in reader.episodes]
        for one, found in zip(live, reader.episodes, strict=True):
            assert (one[6] is None) == (found[6] is None)
            for name, value in (one[6] or {}).items():
                np.testing.assert_array_equal(found[6][name], value)


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize(
    ("capacity", "streams", "steps"),
    [
        (300, 3, 0),
        (300, 3, 1),
        (300, 3, 80),
        (300, 3, 400),
        (300, 3, 1_000),
        (20, 2, 150),
        (64, 1, 64),
        (64, 1, 65),
        (64, 1, 129),
        (3, 3, 20),
    ],
)
def test_a_reader_of_the_page_finds_what_was_added(capacity, streams, steps, durability, tmp_path):
    """While it is written (step), after a flush, and closed: every live step, episode and final observation."""
    path = tmp_path / "pong.replay"
    with make(path, capacity=capacity, streams=streams, durability=durability) as buffer:
        scribe = Scribe(buffer, seed=steps)
        scribe.go_on(steps)
        if durability == "step":
            scribe.assert_found(Reader(path))
            assert Reader(path).meta["clean"] is False
        buffer.flush()
        scribe.assert_found(Reader(path))
        scribe.go_on(min(steps, 7))
        copy = tmp_path / "copy.replay"
        buffer.save_as(copy)
        scribe.assert_found(Reader(copy))
        assert Reader(copy).meta["copy_of"] == Reader(path).meta["identity"]
    scribe.assert_found(Reader(path))
    assert Reader(path).meta["clean"] is True


@pytest.mark.parametrize(("before", "steps"), [(300, 1_000), (15, 241), (15, 250), (96, 400)])
def test_a_reader_of_the_page_finds_what_a_larger_ring_holds(before, steps, tmp_path):
    """Its oldest live steps lie within runs, where `floors` says; while it is written, and closed."""
    import reverie as rv

    path = tmp_path / "pong.replay"
    with make(path, capacity=before, streams=3) as buffer:
        scribe = Scribe(buffer, seed=steps)
        scribe.go_on(steps)
    tails = {stream: max(head - before // 3, 0) for stream, head in enumerate(scribe.heads)}
    scribe.steps = {key: value for key, value in scribe.steps.items() if key[1] >= tails[key[0]]}
    scribe.each = 1_000
    with rv.open(path, capacity=3_000, episodes="continue") as scribe.buffer:
        for _ in range(2):
            reader = Reader(path)
            assert reader.live == {stream: (tails[stream], head) for stream, head in enumerate(scribe.heads)}
            assert reader.steps.keys() == scribe.steps.keys()
            for key, values in scribe.steps.items():
                for name, value in values.items():
                    np.testing.assert_array_equal(reader.steps[key][name], value, err_msg=f"{key} {name}")
            live = [one for one in scribe.episodes if one[3] > tails[one[0]]]
            assert [one[:6] for one in live] == [list(one[:6]) for one in reader.episodes]
            scribe.go_on(50)


def test_the_reader_can_fail(tmp_path):
    """A reader that finds one other bit says so: the comparison looks at what it reads."""
    with make(tmp_path / "pong.replay", capacity=60) as buffer:
        scribe = Scribe(buffer, seed=0)
        scribe.go_on(50)
    reader = Reader(tmp_path / "pong.replay")
    scribe.assert_found(reader)
    reader.steps[0, 3] = {**reader.steps[0, 3], "obs/body/touch": not reader.steps[0, 3]["obs/body/touch"]}
    with pytest.raises(AssertionError):
        scribe.assert_found(reader)


def test_a_budget_of_bytes_leaves_a_later_tail(tmp_path):
    """Where runs were dropped, `tail` is the first step of the oldest run."""
    import reverie as rv

    path, noise = tmp_path / "pong.replay", np.random.default_rng(0)
    spec = rv.StepSpec(rv.Field((3, 32, 32), "uint8"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 4_000, path=path, residency="disk", max_bytes=1_500_000, seed=0) as buffer:
        for step in range(1_000):
            obs = noise.integers(0, 256, (3, 32, 32), np.uint8)
            buffer.add(obs=obs, action=step, reward=1.0, terminated=step % 9 == 8, truncated=False)
        count = len(buffer)
    reader = Reader(path)
    assert count < 900
    assert [int(reader.steps[0, step]["action"]) for step in range(1_000 - count, 1_000)] == [
        *range(1_000 - count, 1_000)
    ]
    assert len(reader.steps) == count


def test_the_kept_file_of_version_1(tmp_path):
    """The file that is kept for ever is read, too: steps, episodes, arrays, generator."""
    reader = Reader(shutil.copy(DATA / "format-1.replay", tmp_path))
    wanted = np.load(DATA / "format-1.npz")
    keys = sorted(reader.steps)
    assert keys == list(zip(wanted["step/stream"].tolist(), wanted["step/anchor"].tolist(), strict=True))
    for name, column in (
        ("reward", "reward"),
        ("camera", "obs/camera"),
        ("touch", "obs/body/touch"),
        ("logits", "extras/logits"),
    ):
        found = np.stack([reader.steps[key][column] for key in keys])
        np.testing.assert_array_equal(found, wanted[f"step/{name}"][:, 0])
    names = {0: "running", 1: "terminated", 2: "truncated", 3: "terminated", 4: "cut"}
    assert [names[one[4]] for one in reader.episodes] == wanted["episode/ended"].tolist()
    assert [one[5] for one in reader.episodes] == wanted["episode/return"].tolist()
    assert [kind for kind, _ in reader.meta["samplers"]][:2] == ["Prioritized()", "VisitBalanced(by=episode)"]
    assert reader.arrays["samplers/0/steps/weights"].shape == (200,)
    assert len(reader.meta["rng"]["counter"]) == 4


# --- the page itself -----------------------------------------------------------------------------------------


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def pong(tmp_path):
    """A file with frames, as the page's examples have it."""
    import reverie as rv

    spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 64, path=tmp_path / "pong.replay") as buffer:
        for step in range(40):
            buffer.add(obs=np.zeros((3, 64, 64), np.uint8), action=0, reward=step // 8, terminated=step == 20, truncated=False)  # fmt: skip
        buffer.annotate(game="Pong")
    return tmp_path / "pong.replay"


def test_the_schema_on_the_page_is_that_of_a_file(pong):
    """Character for character."""
    block = re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with closing(sqlite3.connect(":memory:")) as empty, closing(sqlite3.connect(pong)) as file:
        empty.executescript(block[1])
        query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        assert file.execute(query).fetchall() == empty.execute(query).fetchall()


def test_the_sql_of_the_commands_runs(pong, monkeypatch):
    """Each command's SQL gives rows; what is written into a file unpacks to the rewards."""
    monkeypatch.chdir(pong.parent)
    ran = 0
    for line in commands():
        program, *arguments = shlex.split(line, comments=True)
        if program != "sqlite3":
            continue
        assert arguments[0] == "pong.replay"
        with closing(sqlite3.connect(arguments[0])) as db:
            db.create_function("writefile", 2, lambda name, data: Path(name).write_bytes(data))
            assert db.execute(arguments[1]).fetchall()
        ran += 1
    assert ran >= 6
    packed = Path("reward.zst").read_bytes()
    rewards = np.frombuffer(zstandard.ZstdDecompressor().decompress(packed), "<f4")
    assert rewards.tolist() == [step // 8 for step in range(32)]


@pytest.mark.skipif(
    not all(map(shutil.which, ("sqlite3", "zstd", "od"))), reason="needs the sqlite3 shell, zstd and od"
)
def test_the_commands_run_in_a_shell(pong):
    """Line by line, as they stand there, where the machine has these programs."""
    out = ""
    for line in commands():
        done = subprocess.run(line, shell=True, cwd=pong.parent, capture_output=True, text=True, check=True)
        out += done.stdout
    assert out.splitlines()[:2] == ["1919252069", "2"]
    assert "01|32" in out.splitlines()
    assert np.fromfile(pong.with_name("reward.f32"), "<f4").tolist() == [step // 8 for step in range(32)]


def test_a_log_names_the_file_it_is_built_on_as_the_page_says(tmp_path):
    """The first frame of a log is page 1, with one more than the even number that stands at byte 40 of the file."""
    import reverie as rv

    path = tmp_path / "pong.replay"
    numbers = set()
    with rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 100, path=path) as buffer:
        for step in range(60):
            buffer.add(obs=step, action=0, reward=0.0, terminated=False, truncated=False)
            file, log = path.read_bytes()[:100], Path(f"{path}-wal").read_bytes()
            base, page, mark = (
                int.from_bytes(part, "big") for part in (file[40:44], log[32:36], log[96:100])
            )
            assert base >= 65536
            assert (base % 2, page, mark) == (0, 1, base + 1)
            numbers.add(base)
            if step % 20 == 19:
                buffer.flush()
                assert Path(f"{path}-wal").stat().st_size == 0
    assert len(numbers) == 3


def test_no_name_is_left_out(pong):
    """Every table, fixed column, meta key, and the version is on the page."""
    from reverie.file.replay import FORMATS

    assert PAGE.splitlines()[0].endswith("format versions {}, {} and {}".format(*FORMATS))
    with closing(sqlite3.connect(pong)) as file:
        names = {name for (name,) in file.execute("SELECT name FROM meta")}
        for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            names |= {table, *(column[1] for column in file.execute(f"PRAGMA table_info({table})"))}
    for name in names:
        assert f"`{name}`" in PAGE or name in ("final_obs", "checksum", "data", "obs"), name


def test_the_reader_knows_nothing_of_reverie():
    """Its part of this file names no module of the package."""
    source = Path(__file__).read_text().split("# --- what it is compared with")[0]
    assert "import reverie" not in source
    assert "from reverie" not in source
