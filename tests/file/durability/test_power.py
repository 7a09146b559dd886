"""Loss of power: of what was written since the last sync, anything may be there or not, torn and out of order."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from test_full_disk import refused
from test_reopen import RESIDENCIES

import reverie as rv
from reverie.file import sqlite as database
from support.recorder import SQLITE_FULL, Recorder, library
from support.story import Story, check, heads, read_all, spec

pytestmark = pytest.mark.long

SECTOR = 512
needs_sqlite = pytest.mark.skipif(
    library() is None, reason="wanted the SQLite library within reach of ctypes"
)


class Disk:
    """What a disk holds of some files, and what it may or may not hold yet."""

    def __init__(self) -> None:
        self.safe: dict[str, bytes] = {}  # name -> what survives whatever happens
        self.waiting: list[tuple] = []  # writes and truncations, not synced yet, oldest first

    def see(self, event: tuple) -> None:
        if event[0] != "sync":
            self.waiting.append(event)
            return
        name = event[1]
        mine = [one for one in self.waiting if one[1] == name]
        self.waiting = [one for one in self.waiting if one[1] != name]
        self.safe[name] = bytes(apply(bytearray(self.safe.get(name, b"")), mine))

    def after_loss(self, dice: random.Random) -> dict[str, bytes]:
        """Return what there may be after a loss of power: any sectors of any writes that were not synced."""
        files = {name: bytearray(data) for name, data in self.safe.items()}
        luck = dice.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        waiting = self.waiting[: dice.randint(0, len(self.waiting))] if dice.random() < 0.5 else self.waiting
        for event in waiting:
            kept = files.setdefault(event[1], bytearray())
            if event[0] == "truncate":
                if dice.random() < luck:
                    apply(kept, [event])
                continue
            _, name, offset, data = event
            for first in range(0, len(data), SECTOR):
                if dice.random() < luck:
                    apply(kept, [("write", name, offset + first, data[first : first + SECTOR])])
        return {name: bytes(data) for name, data in files.items()}


def apply(data: bytearray, events: list[tuple]) -> bytearray:
    """Do what events say to the bytes of a file."""
    for event in events:
        if event[0] == "truncate":
            del data[event[2] :]
            data += bytes(event[2] - len(data))
        else:
            _, _, offset, more = event
            data += bytes(max(0, offset + len(more) - len(data)))
            data[offset : offset + len(more)] = more
    return data


@needs_sqlite
@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_power_is_lost_and_the_flushed_is_there(seed, durability, tmp_path, monkeypatch):
    """Lose power 100 times while steps are added, across checkpoints: all is there up to the last flush or later."""
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 30)
    dice = random.Random(seed)
    path, lost = tmp_path / "a.replay", tmp_path / "lost" / "a.replay"
    lost.parent.mkdir()
    story = Story(seed, 2, 144, rarity=8, sure=True)
    disk = Disk()
    flushed = 0
    checkpoints = 0

    def see(event: tuple) -> None:
        nonlocal checkpoints
        checkpoints += event[0] == "sync" and not event[1].endswith("-wal")
        disk.see(event)

    def judge() -> None:
        files = disk.after_loss(dice)
        for name in lost.parent.iterdir():
            name.unlink()
        for name, data in files.items():
            suffix = name.removeprefix(os.fspath(path))
            if suffix in ("", "-wal"):
                Path(f"{lost}{suffix}").write_bytes(data)
        with rv.open(lost, dice.choice(RESIDENCIES), mode=dice.choice(["r", "r+"])) as buffer:
            now = heads(buffer)
            assert now[0] + now[1] >= flushed, (now, flushed)
            assert now[0] <= at[0]
            assert now[1] <= at[1]
            now_story = Story(seed, 2, 144, rarity=8, sure=True)
            if buffer.engine.changes.writer is not None:
                now_story.torn = {stream: {head} for stream, head in enumerate(now)}
            check(buffer, now_story)
            read_all(buffer)

    at = [0, 0]
    with Recorder(see):
        buffer = rv.ReplayBuffer(spec(), 144, streams=2, seed=seed, path=path, durability=durability,
                                 residency=dice.choice(RESIDENCIES))  # fmt: skip
        # Made beside its place and then linked there: whatever is synced of a draft is synced of the file.
        for name in [name for name in disk.safe if ".new-" in name]:
            suffix = next((end for end in ("-wal", "-journal") if name.endswith(end)), "")
            disk.safe[f"{path}{suffix}"] = disk.safe.pop(name)
        assert disk.safe[os.fspath(path)]
        assert not [event for event in disk.waiting if event[1].endswith(f".new-{os.getpid()}")], (
            "unsynced creation"
        )
        losses = 0
        while losses < 100:
            stream = dice.randrange(2)
            row = story.step(stream, at[stream])
            fate = int(story.fates(stream, np.array([at[stream]]))[0])
            buffer.add(**row)
            at[stream] += 1
            if fate == 3:
                buffer.cut(stream, final_obs=story.final(stream, at[stream] - 1))
            if dice.random() < 0.05:
                buffer.flush()
                flushed = sum(at)
                judge()
                losses += 1
            if dice.random() < 0.3:
                judge()
                losses += 1
        buffer.close()
    assert checkpoints > 3


def failing_at(number: int, state: dict):
    """Return what lets the disk be full from a write on, while `state` says so."""

    def see(event: tuple) -> int:
        if not state["on"]:
            return 0
        state["seen"] += 1
        return SQLITE_FULL if state["seen"] > number else 0

    return see


WRITES = ["add", "seal", "cut", "flush", "write_back", "save_as", "save_again", "close", "create"]


@needs_sqlite
@pytest.mark.parametrize("what", WRITES)
def test_the_disk_is_full_from_some_writes_on(what, tmp_path, monkeypatch):
    """Let some of the writes of an operation be the first that finds no room."""
    residency = random.Random(what).choice(RESIDENCIES)
    refuse_from([0, 2, 9, 23, 36, 1000], residency, what, tmp_path, monkeypatch)


@needs_sqlite
@pytest.mark.slow
@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_the_disk_is_full_from_any_write_on(residency, what, tmp_path, monkeypatch):
    """Let every write of an operation be the first that finds no room."""
    refuse_from(range(1000), residency, what, tmp_path, monkeypatch)


def refuse_from(numbers, residency: str, what: str, tmp_path: Path, monkeypatch) -> None:
    """Let these writes of an operation be the first that finds no room: it is refused whole, and goes well later."""
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 12)
    refusals = 0
    for number in numbers:
        if not refuse_at(number, residency, what, tmp_path):
            break
        refusals += 1
    else:
        raise AssertionError("an end was not reached")
    assert refusals, "the operation writes"


def refuse_at(number: int, residency: str, what: str, tmp_path: Path) -> bool:
    """Refuse all writes of an operation from one on, and return whether it made as many."""
    story = Story(1, 1, 96, rarity=4)
    state = {"on": False, "seen": 0}
    path, copy = tmp_path / f"{number}.replay", tmp_path / f"{number}.copy"
    with Recorder(failing_at(number, state)):
        if what == "create":
            state["on"] = True
            came = refused(rv.ReplayBuffer, spec(), 96, path=path, residency=residency)
            assert path.exists() != came
            state["on"] = False
            if came:
                assert not list(tmp_path.glob(f"{number}.replay*"))
                rv.ReplayBuffer(spec(), 96, path=path, residency=residency).close()
            return came
        buffer = rv.ReplayBuffer(spec(), 96, seed=0, path=path, residency=residency)
        steps = 128 if what == "seal" else 105
        for step in range(steps):
            buffer.add(**story.step(0, step))
            if step == 100 and what == "save_again":
                buffer.save_as(copy)
            fate = int(story.fates(0, np.array([step]))[0])
            if fate == 3 and not (what == "cut" and step == steps - 1):
                buffer.cut(final_obs=story.final(0, step))
        batch = buffer.sample(8, 2)
        calls = {
            "add": lambda: buffer.add(**story.step(0, steps)), "seal": lambda: buffer.add(**story.step(0, steps)),
            "cut": lambda: buffer.cut(), "flush": buffer.flush, "close": buffer.close,
            "write_back": lambda: buffer.write_back(batch, note=batch.step_ids() * 7 + 1),
            "save_as": lambda: buffer.save_as(copy), "save_again": lambda: buffer.save_as(copy),
        }  # fmt: skip
        state["on"] = True
        came = refused(calls[what])
        state["on"] = False
        if what == "close":
            with rv.open(path, mode="r") as again:
                assert heads(again) == [steps]
                check(again, story)
            return came
        if what == "cut" and not came:
            story.torn = {0: {steps}}
        check(buffer, story)
        with rv.open(path, mode="r") as again:
            assert heads(again) == heads(buffer)
            check(again, story)
        if came and what.startswith("save"):
            assert copy.exists() == (what == "save_again")
        if came:
            calls[what]()
            if what == "cut":
                story.torn = {0: {steps}}
            check(buffer, story)
        buffer.close()
    with rv.open(path, residency) as again:
        check(again, story)
        read_all(again)
    if what.startswith("save"):
        with rv.open(copy, residency, mode="r") as again:
            check(again, story)
            read_all(again)
    return came
