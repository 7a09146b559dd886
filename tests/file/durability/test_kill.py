"""`kill -9` at any instant: no step is lost whose `add` had returned, and nothing is torn."""

import os
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.index import RUN, Runs
from support.children import PATIENCE, Child, shared
from support.story import CUT, Story, check, check_batch, heads, read_all, rewritten, spec

pytestmark = pytest.mark.long

RESIDENCIES = ("ram", "packed", "disk")


class Told:
    """What a writer tells the one who is about to kill it: of each stream, in memory that outlives it."""

    def __init__(self, story: Story) -> None:
        self.adds = shared(story.streams)  # ids for which an add has returned: all below
        self.flushed = shared(story.streams)  # the same for flush
        self.cuts = shared(story.streams)  # the last id before which a cut has returned
        self.lanes = shared(story.streams)  # whether a step of the stream is being added at this moment
        self.noted = shared(
            story.streams, story.each
        )  # slot -> one more than the id whose note was written back
        self.count = shared(1)


def write(path: Path, story: Story, told: Told, seed: int, residency: str, durability: str, batch: bool, most: int) -> None:  # fmt: skip
    """Add steps as fast as possible; now and then cut, draw, write back and flush."""
    if path.exists():
        buffer = rv.open(path, residency, episodes="continue")  # the story goes on where it was
        check(buffer, story, noted=told.noted)
    else:
        buffer = rv.ReplayBuffer(spec(), story.capacity, streams=story.streams, seed=story.seed,
                                 residency=residency, path=path, durability=durability)  # fmt: skip
    dice = random.Random(seed)
    sampler = rv.Prioritized()
    at = heads(buffer)
    for _ in range(most):
        if batch:
            lanes = sorted(dice.sample(range(story.streams), dice.randint(1, story.streams)))
        else:
            lanes = [dice.randrange(story.streams)]
        told.lanes[lanes] = 1
        if batch:
            buffer.add_batch(**story.lanes(lanes, [at[lane] for lane in lanes]))
        else:
            buffer.add(**story.step(lanes[0], at[lanes[0]]))
        for lane in lanes:
            at[lane] += 1
        told.adds[:] = at
        told.lanes[:] = 0
        told.count[0] += 1
        for lane in lanes:
            if int(story.fates(lane, np.array([at[lane] - 1]))[0]) == CUT:
                buffer.cut(lane, final_obs=story.final(lane, at[lane] - 1))
                told.cuts[lane] = at[lane]
        if dice.random() < 0.08 and buffer.count_windows(3):
            drawn = buffer.sample(4, 3, sampler=dice.choice([sampler, rv.Uniform()]))
            check_batch(drawn, story)
            if hasattr(drawn.origin.sampler, "alpha"):
                buffer.update_priorities(drawn, np.arange(4.0) + 0.5)
            ids = drawn.step_ids()
            buffer.write_back(drawn, note=rewritten(ids))
            for lane, row in zip(drawn.stream.tolist(), ids, strict=True):
                told.noted[lane, row % story.each] = row + 1
        if dice.random() < 0.02:
            buffer.flush()
            told.flushed[:] = at
    buffer.close()
    told.flushed[:] = at


def least(story: Story, told: Told, stream: int, durability: str) -> int:
    """How many steps of a stream must have survived."""
    adds = int(told.adds[stream])
    if durability == "step" or not adds:
        return adds
    _, row = Runs(story.streams, story.each).of_id(stream, adds - 1)
    return max(int(told.flushed[stream]), adds - 1 - row)


def judge(path: Path, story: Story, told: Told, durability: str, residency: str, batch: bool) -> None:
    """Open what a killed writer left, and assert that it holds what was promised and no more than was begun."""
    if not path.exists():
        assert not told.count[0]
        return
    with rv.open(path, residency, mode="r") as buffer:
        now = heads(buffer)
        lanes = np.flatnonzero(told.lanes).tolist()
        extra = [now[stream] - int(told.adds[stream]) for stream in range(story.streams)]
        for stream in range(story.streams):
            assert least(story, told, stream, durability) <= now[stream], (stream, now, told.adds)
            assert extra[stream] <= (stream in lanes), "a step that nobody added"
        if durability == "step":
            begun = {extra[stream] for stream in lanes}
            assert len(begun) <= 1, "some lanes of one add_batch, but not all"
        # A planned cut that has returned is there, with its final observation.
        for stream in range(story.streams):
            step = int(told.cuts[stream])
            if step and durability == "step" and step not in story.torn.get(stream, ()):
                final = story.final(stream, step - 1)
                story.finals.setdefault((stream, step), final is not None) if final is not None else None
                if step == now[stream]:
                    mine = buffer.episodes[buffer.episodes["stream"] == stream]
                    assert mine["ended"][-1] == "cut"
        # Of what is lost nothing is remembered; it will be added again.
        for stream in range(story.streams):
            told.noted[stream][told.noted[stream] > now[stream]] = 0
            story.finals = {
                key: known for key, known in story.finals.items() if key[0] != stream or key[1] <= now[stream]
            }
        check(buffer, story, noted=told.noted)
        read_all(buffer)
        if not buffer.engine.file.meta("clean"):
            for stream in range(story.streams):
                if now[stream]:
                    story.torn.setdefault(stream, set()).add(now[stream])
        told.adds[:] = now
        told.flushed[:] = np.minimum(told.flushed, now)
        told.cuts[:] = 0


def torture(
    path: Path, story: Story, durability: str, batch: bool, residencies: tuple[str, ...], kills: int
) -> None:
    """Kill writers of one file again and again; judge what each leaves."""
    dice = random.Random(story.seed)
    told = Told(story)
    killed = 0
    while killed < kills:
        told.count[0] = told.lanes[:] = 0
        wanted, spin = dice.choice([0, 1, 3, 20, RUN, 60]) * dice.random(), int(3000 * dice.random() ** 2)
        seed, residency = dice.randrange(2**32), dice.choice(residencies)
        most = 15 if dice.random() < 0.12 else 10**9  # some come to their end and close
        child = Child(partial(write, path, story, told, seed, residency, durability, batch, most))
        for look in range(PATIENCE):
            if told.count[0] >= wanted or (look % 256 == 0 and child.ended()):
                break
        for _ in range(spin):
            pass
        child.kill()
        killed += os.waitstatus_to_exitcode(child.status) != 0
        judge(path, story, told, durability, dice.choice(RESIDENCIES), batch)


CASES = [  # streams, capacity, durability, batch, residencies, rarity
    (1, 20, "step", False, RESIDENCIES, 4),  # one run, not a whole one
    (1, 64, "step", False, ("ram",), 12),
    (1, 72, "step", False, ("disk",), 60),  # the last run is a short one
    (3, 96 * 3, "step", False, RESIDENCIES, 12),
    (3, 40 * 3, "step", True, RESIDENCIES, 12),
    (2, 200, "step", True, ("packed", "disk"), 90),
    (1, 64, "chunk", False, RESIDENCIES, 12),
    (2, 80, "chunk", False, ("disk",), 40),
    (3, 40 * 3, "chunk", True, RESIDENCIES, 12),
]


def play(path: Path, case: tuple, seed: int, kills: int) -> None:
    streams, capacity, durability, batch, residencies, rarity = case
    story = Story(seed, streams, capacity, rarity, sure=batch)
    torture(path, story, durability, batch, residencies, kills)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0]}x{case[1]}-{case[2]}-{'batch' if case[3] else 'add'}"
)
def test_a_killed_writer_leaves_all_that_was_promised(case, tmp_path):
    """Kill writers of one file 23 times, wherever they are; each time all is there, bit for bit."""
    play(tmp_path / "a.replay", case, seed=0, kills=23)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("case", CASES)
def test_killed_writers_leave_all_that_was_promised(case, seed, tmp_path):
    """The same, 100 times for each of several seeds."""
    play(tmp_path / "a.replay", case, seed, kills=100)
