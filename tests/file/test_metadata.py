"""Metadata of episodes: kept with them in memory and in the file, copied, followed, verified, gone with them."""

import json
import sqlite3

import numpy as np
import pytest

import reverie as rv
from reverie.file.replay import ReplayFile
from reverie.file.verify import Audit

SPEC = rv.StepSpec(obs=rv.Field((3,), "float32"), action=rv.Field((), "int64"))


def add(buffer, count, ends_at=(), stream=0):
    """Add steps; those whose place is in `ends_at` end an episode."""
    for step in range(count):
        buffer.add(
            obs=np.full(3, step, np.float32), action=step, reward=1.0, terminated=step in ends_at, truncated=False,
            stream=stream, final_obs=np.zeros(3, np.float32) if step in ends_at else None,
        )  # fmt: skip


def findings(path):
    file = ReplayFile.open(path, "r")
    try:
        return list(Audit(file).findings())
    finally:
        file.close()


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_it_comes_back_with_its_episode(residency, durability, tmp_path):
    """Of running and of ended episodes, of several streams; a flush, a close or a seal brings it."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(
        SPEC, 200, streams=2, seed=0, residency=residency, path=path, durability=durability
    ) as buffer:
        add(buffer, 10, {4})
        add(buffer, 5, stream=1)
        buffer.annotate(seed=3, task="pick up the cup")
        buffer.annotate(stream=1, options={"level": [1, 2]})
        buffer.annotate(seed=4)
        first = buffer.episodes.ids[0].item()
        buffer.annotate(episode=first, source="human", score=None)
        wanted = [
            {"source": "human", "score": None},
            {"seed": 4, "task": "pick up the cup"},
            {"options": {"level": [1, 2]}},
        ]
        assert buffer.episodes.metadata == wanted
        assert buffer.episodes.ids.tolist() == [0, 1, 2]
    for mode in ("r", "r+"):
        with rv.open(path, mode=mode) as buffer:
            assert buffer.episodes.metadata == wanted
    assert findings(path) == []


def test_a_killed_writer_has_kept_it(tmp_path):
    """With durability "step" it is in the file when `annotate` returns."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0, path=path)
    add(buffer, 3)
    buffer.annotate(seed=1)
    with rv.open(path, mode="r") as reader:  # while the writer has it open
        assert reader.episodes.metadata == [{"seed": 1}]
        buffer.annotate(seed=2)
        assert reader.episodes.metadata == [{"seed": 2}]
    buffer.close()


def test_chunk_keeps_it_in_memory_until_the_episode_is_in_the_file(tmp_path):
    """Else it could be taken for that of another episode, which gets the same number after a crash."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0, path=path, durability="chunk")
    add(buffer, 3)
    buffer.annotate(seed=1)
    with rv.open(path, mode="r") as reader:
        assert reader.episodes.metadata == []
        buffer.flush()
        assert reader.episodes.metadata == [{"seed": 1}]
        buffer.annotate(seed=2)
        assert reader.episodes.metadata == [{"seed": 2}]
    buffer.close()


@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_it_goes_with_its_episode(residency, tmp_path):
    """What is evicted leaves nothing behind, in memory or in the file."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(SPEC, 64, seed=0, residency=residency, path=path) as buffer:
        for number in range(40):
            add(buffer, 10, {8})
            buffer.annotate(number=number)
        ids = buffer.episodes.ids.tolist()
        assert buffer.episodes.metadata == [{"number": number - 1} for number in ids]
        assert set(buffer.engine.index.labels) <= set(ids)
    with sqlite3.connect(path) as db:
        kept = {number for (number,) in db.execute("SELECT number FROM labels")}
        episodes = {number for (number,) in db.execute("SELECT number FROM episodes")}
    db.close()
    assert kept <= episodes
    assert len(kept) < 20
    assert findings(path) == []


@pytest.mark.parametrize("with_file", [True, False])
def test_save_as_takes_it_along(with_file, tmp_path):
    """Also into a copy that is brought up to date, from which an episode has gone."""
    path, copy = tmp_path / "a.replay", tmp_path / "copy.replay"
    with rv.ReplayBuffer(SPEC, 64, seed=0, path=path if with_file else None) as buffer:
        add(buffer, 10, {9})
        buffer.annotate(episode=0, old=True)
        buffer.save_as(copy)
        with rv.open(copy, mode="r") as saved:
            assert saved.episodes.metadata == [{"old": True}]
        add(buffer, 100, {59, 79, 99})
        buffer.annotate(episode=buffer.episodes.ids[-1].item(), new=True)
        buffer.save_as(copy)
        with rv.open(copy, mode="r") as saved:
            assert saved.episodes.metadata == buffer.episodes.metadata
            assert saved.episodes.metadata[-1] == {"new": True}
    assert findings(copy) == []


def test_the_format_is_that_of_the_first_version_until_there_is_metadata(tmp_path):
    """So an older reverie opens what does not need a newer one; the number in the log never looks like a base."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(SPEC, 64, seed=0, path=path)
    add(buffer, 3)

    def read(pragma):
        with rv.open(path, mode="r") as reader:
            return reader.engine.file.db.one(f"PRAGMA {pragma}")

    assert read("user_version") == 1
    buffer.annotate(seed=1)
    assert read("user_version") == 2
    assert read("schema_version") % 2 == 1
    buffer.close()
    assert read("schema_version") % 2 == 0
    with rv.open(path) as buffer:
        add(buffer, 3)
        assert buffer.episodes.metadata == [{"seed": 1}, {}]
    assert read("user_version") == 2


def test_scalars_of_numpy_are_numbers(tmp_path):
    """Environments give them in infos; they come back as the same numbers of Python."""
    with rv.ReplayBuffer(SPEC, 64, seed=0, path=tmp_path / "a.replay") as buffer:
        add(buffer, 3)
        buffer.annotate(
            score=np.float32(0.1), seed=np.int64(2**60), won=np.True_, inside={"list": [np.uint8(3), "x"]}
        )
        wanted = {"score": float(np.float32(0.1)), "seed": 2**60, "won": True, "inside": {"list": [3, "x"]}}
        assert buffer.episodes.metadata == [wanted]
        assert isinstance(buffer.episodes.metadata[0]["won"], bool)
    with rv.open(tmp_path / "a.replay") as buffer:
        assert buffer.episodes.metadata == [wanted]


def test_what_cannot_be_kept_is_refused():
    """No running episode, no such episode, values that JSON has not, too much: nothing has changed then."""
    buffer = rv.ReplayBuffer(SPEC, 64, seed=0)
    with pytest.raises(rv.BadSetting, match="wanted a running episode of stream 0, got none"):
        buffer.annotate(seed=1)
    add(buffer, 3)
    with pytest.raises(rv.BadSetting, match=r"wanted one of buffer\.episodes\.ids, got 7"):
        buffer.annotate(episode=7, seed=1)
    for value in (float("nan"), np.zeros(2), {1: 2}, (1, 2), object()):
        with pytest.raises(rv.BadSetting, match="wanted values that JSON has"):
            buffer.annotate(value=value)
    with pytest.raises(rv.BadSetting, match="wanted at most 65,536 characters"):
        buffer.annotate(value="x" * 65_536)
    assert buffer.episodes.metadata == [{}]
    mine = {"list": [1]}
    buffer.annotate(value=mine)
    mine["list"].append(2)
    buffer.episodes.metadata[0]["value"]["list"].append(3)
    assert buffer.episodes.metadata == [{"value": {"list": [1]}}]
    buffer.close()
    with pytest.raises(rv.BufferClosed):
        buffer.annotate(seed=1)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE labels SET value = '{}'", "its checksum is wrong"),
        ("UPDATE labels SET number = 9", "its checksum is wrong"),
        ("UPDATE labels SET value = X'00'", "its checksum is wrong"),
    ],
)
def test_damage_is_found(damage, told, tmp_path):
    """By `verify`, in words, and by `open`, which refuses the file."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(SPEC, 64, seed=0, path=path) as buffer:
        add(buffer, 3)
        buffer.annotate(seed=1)
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    assert any(told in line for line in findings(path))
    with pytest.raises(rv.FileError, match=told):
        rv.open(path)


def test_it_is_inspected(tmp_path, capsys):
    """`reverie inspect` shows it below the episodes that it lists."""
    from reverie.cli import main

    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(SPEC, 64, seed=0, path=path) as buffer:
        add(buffer, 3)
        buffer.annotate(task="push \x1b[31m the button")
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    [line] = [line for line in shown.splitlines() if line.startswith("metadata")]
    assert json.dumps({"task": "push \x1b[31m the button"}) in line
    assert "format version 2" in shown
