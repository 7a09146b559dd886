"""`extend` does what as many calls of `add` do: the same memory, the same file, the same next batch."""

import sqlite3
import sys
from contextlib import closing, suppress

import numpy as np
import pytest

import reverie as rv
from support.faults import Lines

SPEC = rv.StepSpec(
    obs={"frame": rv.Field((2, 20, 20), "uint8"), "x": rv.Field((3,), "float32")},
    action=rv.Field((), "int64"),
    extras={"latent": rv.Field((4,), "float32")},
)


def steps(seed, *lead):
    """Steps with ends of all kinds among them, and final observations for all places."""
    dice = np.random.default_rng(seed)

    def obs():
        return {
            "frame": dice.integers(0, 4, (*lead, 2, 20, 20), dtype=np.uint8),  # it packs to less
            "x": dice.normal(size=(*lead, 3)).astype(np.float32),
        }

    return {
        "obs": obs(), "action": dice.integers(0, 9, lead), "reward": dice.normal(size=lead), "terminated": dice.random(lead) < 0.08,
        "truncated": dice.random(lead) < 0.08, "final_obs": obs(), "latent": dice.normal(size=(*lead, 4)).astype(np.float32),
    }  # fmt: skip


def at(value, place):
    return (
        {name: at(child, place) for name, child in value.items()} if isinstance(value, dict) else value[place]
    )


def add_each(buffer, given, stream):
    for place in range(len(given["reward"])):
        one = at(given, place)
        ends = one["terminated"] or one["truncated"]
        buffer.add(
            **{**one, "final_obs": one["final_obs"] if ends else None, "reward": float(one["reward"])},
            stream=stream,
        )


def tables(path):
    """Everything that a file holds, but for whose it is."""
    with closing(sqlite3.connect(path)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = {name: db.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names - {"meta"}}
        found["meta"] = db.execute(
            "SELECT name, value FROM meta WHERE name != 'identity' ORDER BY 1"
        ).fetchall()
    return found


def check_equal(one, other):
    np.testing.assert_array_equal(np.asarray(one.episodes), np.asarray(other.episodes))
    for sampler in (rv.Uniform, lambda: rv.VisitBalanced(by="episode"), rv.Prioritized):
        first, second = (
            buffer.sample(40, 3, boundary="pad_both", sampler=sampler()) for buffer in (one, other)
        )
        for name in (
            "reward",
            "action",
            "anchor",
            "stream",
            "terminated",
            "truncated",
            "obs_mask",
            "is_first",
        ):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        for name in ("frame", "x"):
            np.testing.assert_array_equal(first.obs[name], second.obs[name])
        np.testing.assert_array_equal(first.extras["latent"], second.extras["latent"])


@pytest.mark.parametrize("durability", [None, "step", "chunk"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_it_is_as_many_adds(residency, durability, tmp_path):
    """Pieces of any length, also none and more than a stream keeps, in turn over two streams; the files are equal, too."""
    if residency == "disk" and durability is None:
        durability = "step"
    buffers = [
        rv.ReplayBuffer(SPEC, 160, streams=2, seed=0, residency=residency, durability=durability,
                        path=tmp_path / f"{number}.replay" if durability else None)
        for number in range(2)
    ]  # fmt: skip
    for seed, count in enumerate((5, 0, 1, 70, 33, 200, 3)):
        given = steps(seed, count)
        buffers[0].extend(**given, stream=seed % 2)
        add_each(buffers[1], given, seed % 2)
        if len(buffers[0]):
            check_equal(*buffers)
    for buffer in buffers:
        buffer.close()
    if durability:
        assert tables(tmp_path / "0.replay") == tables(tmp_path / "1.replay")


def test_a_row_for_each_end_is_enough():
    """Final observations (E, …) mean the same as (T, …)."""
    one, other = (rv.ReplayBuffer(SPEC, 100, seed=0) for _ in range(2))
    given = steps(3, 50)
    one.extend(**given)
    ends = np.flatnonzero(given["terminated"] | given["truncated"])
    assert 2 < len(ends) < 20
    other.extend(**{**given, "final_obs": at(given["final_obs"], ends)})
    check_equal(one, other)


def test_lanes():
    """(T, lanes, …) is T calls of `add_batch`."""
    one, other = (rv.ReplayBuffer(SPEC, 120, streams=4, seed=0) for _ in range(2))
    given = steps(5, 35, 3)
    one.extend(**given, streams=[2, 0, 3])
    for place in range(35):
        other.add_batch(**at(given, place), streams=[2, 0, 3])
    check_equal(one, other)


@pytest.mark.parametrize("path", [None, "a.replay"])
def test_what_does_not_fit_leaves_nothing(path, tmp_path):
    """Not even the steps before the one that does not fit."""
    buffer = rv.ReplayBuffer(SPEC, 100, streams=2, seed=0, path=path and tmp_path / path)
    given, nan = steps(1, 9), np.zeros(9)
    nan[-1] = np.nan
    for change, message in (
        ({"reward": nan}, "wanted finite float32 numbers"),
        ({"reward": np.zeros((9, 1))}, r"wanted shape \(T,\), got \(9, 1\)"),
        ({"reward": np.full(1_000, np.nan)}, "wanted|shape"),
        ({"action": np.zeros(8, np.int64)}, r"field 'action': wanted shape \(9,\), got \(8,\)"),
        ({"terminated": np.zeros(3, bool)}, r"field 'terminated': wanted shape \(9,\), got \(3,\)"),
        ({"final_obs": at(given["final_obs"], slice(0, 7))}, "final_obs/frame"),
        ({"stream": 2}, "stream: wanted"),
        ({"more": np.zeros(9)}, "extra fields: wanted"),
    ):
        with pytest.raises(rv.SpecMismatch, match=message):
            buffer.extend(**{**given, **change})
    with pytest.raises(rv.SpecMismatch, match=r"field 'action': wanted a leading axis of 9 steps"):
        buffer.extend(**{**steps(1, 9, 2), "action": np.zeros((8, 2), np.int64)}, streams=[0, 1])
    assert len(buffer) == 0
    buffer.close()
    with pytest.raises(rv.BufferClosed):
        buffer.extend(**given)


HOMES = [
    ("ram", None), ("packed", None), ("ram", "step"), ("ram", "chunk"), ("packed", "step"), ("packed", "chunk"), ("disk", "step"),
    ("disk", "chunk"),
]  # fmt: skip


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("residency", "durability"), HOMES)
def test_an_interrupt_leaves_all_or_nothing(residency, durability, error, tmp_path, monkeypatch):
    """At whatever line it comes, in memory and file alike: what is there is what as many adds make, or nothing."""
    # What is raised while an older buffer is given back is raised for nobody, and does no harm.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    given, early = steps(7, 60), steps(8, 30)
    given["terminated"][:] = np.arange(60) % 25 == 11
    given["truncated"][:] = False
    paths = [None, None] if durability is None else [tmp_path / "0.replay", tmp_path / "1.replay"]

    def made(number):
        buffer = rv.ReplayBuffer(
            SPEC, 70, seed=0, residency=residency, durability=durability, path=paths[number]
        )
        buffer.extend(**early)
        return buffer

    def close(buffer):
        buffer.close()
        if buffer.path is not None:
            buffer.path.unlink()

    twin, total = made(1), Lines(lambda: None, 10**9)
    total.run(lambda: twin.extend(**given))
    close(twin)
    stopped = set()
    first = 1 if error is MemoryError else 3
    for line in range(first, total.seen + 1, 5 if durability is None else 101):
        buffer, twin = made(0), made(1)
        watch = Lines(lambda: error, line)
        with suppress(error, rv.FileError):
            watch.run(lambda buffer=buffer: buffer.extend(**given))
        head = int(buffer.episodes["stop"].max()) - 30
        stopped.add(head)
        if head == 60:
            add_each(twin, given, 0)
        check_equal(buffer, twin)
        for each in (buffer, twin):
            each.extend(**early)
        check_equal(buffer, twin)
        if durability is not None:
            buffer.close()
            twin.close()
            one, other = map(tables, paths)
            for found in (one, other):  # an interrupt may give an episode another row of the index
                del found["arrays"]
            assert one == other
        for each in (buffer, twin):
            close(each)
    assert stopped == {0, 60}
