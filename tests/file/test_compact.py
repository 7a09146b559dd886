"""`compact`: what was discarded leaves no byte behind, and everything else is as it was."""

import os
import secrets
import shutil
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.cli import main
from reverie.compat import IRISReplayBuffer
from reverie.errors import FileMissing
from reverie.file import recut, sqlite, verify_file
from reverie.file.replay import ReplayFile
from reverie.file.sqlite import Database
from support.children import Child
from support.faults import SystemCalls
from support.recorder import library

SECRET = 64  # bytes of each observation
SPEC = rv.StepSpec(
    {"secret": rv.Field((SECRET,), "uint8"), "frame": rv.Field((3, 16, 16), "uint8")},
    rv.Field((), "int64"),
    {"latent": rv.Field((4,), "float32")},
)
RESIDENCIES = ("ram", "packed", "disk")
LENGTHS = (5, 40, 1, 33, 7, 64, 20)  # of the episodes of a stream, over and over


def obs(mark: bytes, step: int) -> dict:
    frame = np.random.default_rng(step).integers(0, 256, (3, 16, 16), np.uint8)
    return {"secret": np.frombuffer(mark, np.uint8), "frame": frame}


def made(path: Path, marks: dict[int, bytes], *, steps: int = 300, capacity: int = 200, **settings) -> Path:
    """A closed file; each observation has the mark of its episode, which no packing makes smaller."""
    with rv.ReplayBuffer(SPEC, capacity, streams=2, seed=3, path=path, **settings) as buffer:
        number = 0
        for stream in range(2):
            left, turn = steps if stream == 0 else steps // 5, 0
            while left > 0:
                length = min(LENGTHS[turn % len(LENGTHS)], left)
                mark = marks.setdefault(number, secrets.token_bytes(SECRET))
                for step in range(length):
                    ends = step == length - 1 and left > length
                    buffer.add(
                        obs=obs(mark, step), action=step, reward=step / 7, terminated=ends and turn % 2 == 0,
                        truncated=ends and turn % 2 == 1, final_obs=obs(mark, step + 1) if ends else None, stream=stream,
                        latent=np.full(4, step, np.float32),
                    )  # fmt: skip
                    if step == 0:
                        buffer.annotate(episode=int(buffer.episodes.ids[-1]), word=mark.hex(), number=number)
                left, turn, number = left - length, turn + 1, number + 1
            buffer.cut(stream)
        drawn = [buffer.sample(8, 3, sampler=sampler) for sampler in samplers()]
        buffer.update_priorities(drawn[1], np.arange(1.0, 9))
    return path


def samplers() -> list[rv.Sampler]:
    return [rv.Uniform(), rv.Prioritized(), rv.VisitBalanced(), rv.Shuffled()]


def shown(path: Path, residency: str) -> list[np.ndarray]:
    """All that a file shows: its table, every episode, and the next batches."""
    found: list[np.ndarray] = []
    with rv.open(path, residency) as buffer:
        table = buffer.episodes
        found += [np.asarray(table), table.ids, np.array([str(label) for label in table.metadata])]
        for episode in buffer.read_episodes():
            found += [episode.obs["secret"], episode.obs["frame"], episode.action, episode.reward, episode.extras["latent"]]  # fmt: skip
            if episode.final_obs is not None:
                found += [episode.final_obs["secret"], episode.final_obs["frame"]]
        for boundary in ("inside", "pad_both", "cross"):
            for sampler in samplers():
                batch = buffer.sample(16, 4, boundary=boundary, sampler=sampler)
                found += [batch.stream, batch.anchor, batch.obs["secret"], batch.weight]
    return found


def bytes_of(path: Path) -> bytes:
    return b"".join(
        Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal") if Path(f"{path}{suffix}").exists()
    )


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("durability", ["step", "chunk"])
def test_nothing_of_them_stays_and_all_else_does(residency, durability, tmp_path):
    """Not a byte of a discarded observation or its metadata; every other step, id and next batch as before."""
    marks: dict[int, bytes] = {}
    path = made(tmp_path / "a.replay", marks, residency=residency, durability=durability)
    with rv.open(path) as buffer:
        numbers = [label["number"] for label in buffer.episodes.metadata]
        gone = [marks[number] for number in numbers[::2]] + [marks[numbers[-1]]]
        buffer.discard(buffer.episodes.ids[[*range(0, len(numbers), 2), len(numbers) - 1]])
    kept = [mark for number in numbers if (mark := marks[number]) not in gone]
    assert len(gone) > 3
    assert len(kept) > 3
    for mark in gone + kept:
        assert mark in bytes_of(path)
    shutil.copy(path, tmp_path / "b.replay")
    before = path.stat().st_size
    given_back = rv.compact(path)
    assert given_back == before - path.stat().st_size > 0
    content = bytes_of(path)
    for mark in gone:
        assert mark not in content
        assert mark.hex().encode() not in content
    for mark in kept:
        assert mark in content
    assert list(verify_file(path))[-1] == ("nothing is wrong", False)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    wanted, found = shown(tmp_path / "b.replay", residency), shown(path, residency)
    assert len(wanted) == len(found)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("length", [1, 2])
def test_the_first_and_last_steps_of_runs(length, tmp_path):
    """An episode of a step or two at each place around the ends of the runs: its bytes go, and no others."""
    path, marks = tmp_path / "a.replay", [secrets.token_bytes(SECRET) for _ in range(100)]
    spec = rv.StepSpec(rv.Field((SECRET,), "uint8"), rv.Field((), "int64"))
    for place in (0, 30, 31, 32, 33, 62, 63, 64, 65, 94, 95, 96, 98):
        path.unlink(missing_ok=True)
        with rv.ReplayBuffer(spec, 200, path=path, seed=0) as buffer:
            ends = np.isin(np.arange(100), (place - 1, place + length - 1))
            buffer.extend(obs=np.frombuffer(b"".join(marks), np.uint8).reshape(100, SECRET), action=np.zeros(100, np.int64),
                          reward=np.ones(100), terminated=ends, truncated=np.zeros(100, np.bool_))  # fmt: skip
            buffer.cut()
            buffer.discard(buffer.episodes.ids[int(place > 0)])
        rv.compact(path)
        content = bytes_of(path)
        gone = [step for step, mark in enumerate(marks) if mark not in content]
        assert gone == list(range(place, place + length))


def test_a_ring_that_grows_leaves_them_behind(tmp_path):
    """What is written anew anyway does not carry what was discarded."""
    marks: dict[int, bytes] = {}
    path = made(tmp_path / "a.replay", marks)
    with rv.open(path) as buffer:
        label = buffer.episodes.metadata[2]
        buffer.discard(buffer.episodes.ids[2])
    rv.open(path, capacity=500).close()
    assert marks[label["number"]] not in bytes_of(path)


def test_again_and_with_nothing_to_do(tmp_path):
    """Twice is fine; a file where nothing was discarded shows the same afterwards; discarded ids stay taken."""
    path = made(tmp_path / "a.replay", {})
    shutil.copy(path, tmp_path / "b.replay")
    rv.compact(path)
    for one, other in zip(shown(tmp_path / "b.replay", "ram"), shown(path, "ram"), strict=True):
        np.testing.assert_array_equal(one, other)
    with rv.open(path) as buffer:
        gone = buffer.episodes.ids[:3].copy()
        buffer.discard(gone)
    for _ in range(2):
        rv.compact(path)
        with rv.open(path) as buffer, pytest.raises(rv.BadSetting, match="was discarded"):
            buffer.discard(gone)


def test_frames_take_half_the_room(tmp_path):
    """Half of the episodes, half of the bytes, more or less; and the ring goes on over their places."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(SPEC, 1024, seed=0, path=path, residency="disk") as buffer:
        for step in range(1024):
            buffer.add(obs=obs(secrets.token_bytes(SECRET), step), action=0, reward=0.0, terminated=step % 32 == 31, truncated=False,
                       latent=np.zeros(4, np.float32))  # fmt: skip
        buffer.discard(buffer.episodes.ids[::2])
    before = path.stat().st_size
    assert 0.4 < rv.compact(path) / before < 0.6
    with rv.open(path) as buffer:
        for step in range(1024):
            buffer.add(obs=obs(bytes(SECRET), step), action=1, reward=0.0, terminated=False, truncated=False,
                       latent=np.zeros(4, np.float32))  # fmt: skip
        assert len(buffer) == 1024
        assert buffer.sample(32, 8).action.all()
    assert list(verify_file(path))[-1] == ("nothing is wrong", False)


def test_the_command_says_what_it_gave_back(tmp_path, capsys):
    path = made(tmp_path / "a.replay", {})
    with rv.open(path) as buffer:
        buffer.discard(buffer.episodes.ids[:-1])
    before = path.stat().st_size
    assert main(["compact", str(path)]) == 0
    told = capsys.readouterr().out
    assert "gave back" in told
    assert path.stat().st_size < before / 2


def test_what_cannot_be_compacted(tmp_path, capsys):
    """A file that is not there, is none, or that somebody writes; it is as it was then."""
    with pytest.raises(FileMissing):
        rv.compact(tmp_path / "none.replay")
    (tmp_path / "text.replay").write_text("no database" * 100)
    with pytest.raises(rv.FileError):
        rv.compact(tmp_path / "text.replay")
    path = made(tmp_path / "a.replay", {})
    with rv.open(path) as buffer:
        with pytest.raises(rv.FileError, match="only writer"):
            rv.compact(path)
        assert len(buffer) > 0
    with pytest.raises(rv.BadSetting, match="wanted a path, got 3"):
        rv.compact(3)
    assert main(["compact", str(tmp_path / "none.replay")]) == 2
    assert "none.replay" in capsys.readouterr().err


def killed(folder: Path, marks: dict[int, bytes], name: str) -> Path:
    """A file and its log as a killed writer leaves them; two of its episodes run, and every other was discarded."""
    path = folder / name
    with rv.open(made(folder / "live.replay", marks)) as buffer:
        for step in range(10):
            buffer.add_batch(
                obs={name: np.stack([value, value]) for name, value in obs(marks[0], step).items()},
                action=[1, 2], reward=[3.0, 4.0], terminated=[False, False], truncated=[False, False],
                latent=np.zeros((2, 4), np.float32),
            )  # fmt: skip
        buffer.discard(buffer.episodes.ids[:-2:2])
        for suffix in ("", "-wal"):
            shutil.copy(beside(buffer.path, suffix), beside(path, suffix))
    for suffix in ("", "-wal"):
        beside(folder / "live.replay", suffix).unlink(missing_ok=True)
    return path


def beside(path: Path | None, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


def findings(path: Path) -> list[str]:
    """What `verify` says of a file, but for how much it looked at."""
    return [line for line, _ in verify_file(path) if not line.startswith("checked ")]


def test_a_file_whose_writer_was_killed(tmp_path):
    """What ran is cut, as whoever goes on writing cuts it; nobody misses the log, which is in the file by now."""
    marks: dict[int, bytes] = {}
    path = killed(tmp_path, marks, "a.replay")
    for suffix in ("", "-wal"):
        shutil.copy(beside(path, suffix), beside(tmp_path / "b.replay", suffix))
    rv.compact(path)
    assert findings(path) == ["nothing is wrong"]
    with rv.open(path, mode="r") as buffer:
        assert buffer.episodes["ended"].tolist()[-2:] == ["cut", "cut"]
    for one, other in zip(shown(tmp_path / "b.replay", "ram"), shown(path, "ram"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_killed_writer_and_a_full_disk(tmp_path, monkeypatch):
    """Where the new file comes to nothing, the old one says nothing else than before."""
    path = killed(tmp_path, {}, "a.replay")

    def full(*_: object) -> None:
        raise rv.FileError("wanted to write a run, got a full disk; make room")

    monkeypatch.setattr(ReplayFile, "put_run", full)
    with pytest.raises(rv.FileError, match="a full disk"):
        rv.compact(path)
    assert findings(path) == ["nothing is wrong"]
    assert not [name for name in os.listdir(tmp_path) if "saving" in name]


@pytest.mark.parametrize(("capacity", "settings"), [
    (10, {}), (40, {}), (62, {}), (64, {}), (66, {"durability": "chunk"}),
    (4000, {"residency": "packed", "max_bytes": 700_000}), (4000, {"residency": "disk", "max_bytes": 700_000}),
])  # fmt: skip
@pytest.mark.parametrize("grown", [False, True])
def test_rings_of_any_size(capacity, settings, grown, tmp_path):
    """Rings of less than a run, of runs that are not whole, of a budget; and larger ones, whose streams have floors."""
    steps = 1200 if settings.get("max_bytes") else 300
    path = made(tmp_path / "a.replay", {}, steps=steps, capacity=capacity, **settings)
    with rv.open(path) as buffer:
        assert len(buffer) < steps * 6 // 5  # the oldest have gone
    if grown:
        rv.open(path, capacity=capacity + 30).close()
    with rv.open(path) as buffer:
        buffer.discard(buffer.episodes.ids[:-1:2])
    shutil.copy(path, tmp_path / "b.replay")
    rv.compact(path)
    assert findings(path) == ["nothing is wrong"]
    residency = settings.get("residency", "ram")
    for one, other in zip(shown(tmp_path / "b.replay", residency), shown(path, residency), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_class_around_the_buffer(tmp_path):
    """A drop-in buffer reads its episodes from its rows: none of them may become zeros. Nothing else is in the way."""
    path = tmp_path / "iris.replay"
    buffer = IRISReplayBuffer(100, (1, 2, 2), 2, seq_len=2, batch_size=4, seed=0, path=path)
    for step in range(70):
        buffer.add(np.full((1, 2, 2), step, np.uint8), 1, float(step), step % 10 == 9)
    buffer.close()
    rv.compact(path)
    with rv.open(path) as plain:
        plain.discard(plain.episodes.ids[1])
    content = path.read_bytes()
    with pytest.raises(rv.FileError, match="such as IRISReplayBuffer, which finds"):
        rv.compact(path)
    assert path.read_bytes() == content
    buffer = IRISReplayBuffer.open(path)
    assert np.flatnonzero(buffer.terminals).tolist() == [9, 19, 29, 39, 49, 59, 69]
    buffer.close()


def test_a_reader_notices(tmp_path):
    """A reader that has the old file open says so, whatever it is asked; a new one reads what a writer adds then."""
    path = made(tmp_path / "a.replay", {})
    with rv.open(path, "disk", mode="r") as reader:
        reader.sample(4, 2)
        rv.compact(path)
        for ask in (
            lambda: reader.sample(4, 2),
            lambda: len(reader),
            lambda: reader.save_as(tmp_path / "b.replay"),
        ):
            with pytest.raises(rv.FileError, match="open it again"):
                ask()
        with rv.open(path) as writer, rv.open(path, mode="r") as other:
            reader.close()
            writer.cut(0)
            writer.annotate(episode=int(writer.episodes.ids[-1]), seen="yes")
            assert other.episodes.metadata[-1]["seen"] == "yes"


def test_links_owner_and_permissions(tmp_path, monkeypatch):
    """What a symbolic link leads to is written anew, and belongs to whom it did."""
    path, link, owners = made(tmp_path / "a.replay", {}), tmp_path / "link.replay", []
    link.symlink_to(path.name)
    path.chmod(0o640)
    monkeypatch.setattr(os, "chown", lambda *args: owners.append(args[1:]))
    rv.compact(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


def test_the_log_of_the_new_file_stays_short(tmp_path, monkeypatch):
    """As much room again as the file takes, and not twice as much: its log is emptied on the way."""
    path, sizes, empty = made(tmp_path / "a.replay", {}, steps=2000, capacity=4000), [], Database._empty
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 20)

    def noting(self: Database) -> bool:
        sizes.append(os.stat(beside(self.place, "-wal")).st_size)
        return empty(self)

    monkeypatch.setattr(Database, "_empty", noting)
    rv.compact(path)
    assert max(sizes) < path.stat().st_size / 4


def test_many_runs_take_time_in_proportion(tmp_path, monkeypatch):
    """Neither the runs nor the discarded episodes of a stream are gone through for each of its runs."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(
        rv.StepSpec(rv.Field((), "uint8"), rv.Field((), "uint8")),
        12_800,
        path=path,
        durability="chunk",
        seed=0,
    ) as buffer:
        steps = np.arange(12_800, dtype=np.int64)
        buffer.extend(obs=steps.astype(np.uint8), action=steps.astype(np.uint8), reward=np.zeros(12_800),
                      terminated=steps % 20 == 19, truncated=np.zeros(12_800, np.bool_))  # fmt: skip
        buffer.discard(buffer.episodes.ids[::2])
    looked = 0

    def look(frame, event, _):
        nonlocal looked
        looked += event == "line"
        return look if frame.f_code.co_filename == recut.__file__ else None

    sys.settrace(look)
    try:
        rv.compact(path)
    finally:
        sys.settrace(None)
    assert 0 < looked < 400 * 200


@pytest.mark.skipif(library() is None, reason="wanted the SQLite library within reach of ctypes")
@pytest.mark.parametrize("fault", ["kill", "ENOSPC", "EIO"])
def test_the_file_is_the_old_one_or_the_new_one(fault, tmp_path):
    """Whatever system call is the last one, or fails: the file is whole, shows the same, and can be compacted again."""
    path, aside, marks = tmp_path / "a.replay", tmp_path / "kept.replay", {}
    made(path, marks, steps=100)
    with rv.open(path) as buffer:
        gone = marks[buffer.episodes.metadata[1]["number"]]
        buffer.discard(buffer.episodes.ids[1])
    content = path.read_bytes()
    aside.write_bytes(content)
    wanted = shown(aside, "disk")
    calls = SystemCalls(tmp_path)

    def failing(at: int) -> None:
        with calls.watching():
            try:
                calls.run(partial(rv.compact, path), at, fault)
            except rv.ReplayError:
                return

    with calls.watching():
        total = calls.count(partial(rv.compact, path))[fault]
    erased = []
    for at in range(1, total + 1, max(1, total // 6)):
        for name in os.listdir(tmp_path):
            (tmp_path / name).unlink()
        path.write_bytes(content)
        Child(partial(failing, at)).wait((0, -9) if fault == "kill" else (0,))
        erased.append(gone not in bytes_of(path))
        assert list(verify_file(path))[-1] == ("nothing is wrong", False)
        rv.compact(path)
        assert gone not in bytes_of(path)
        for one, other in zip(wanted, shown(path, "disk"), strict=True):
            np.testing.assert_array_equal(one, other)
    assert False in erased
