"""A stretch of steps leaves the file that as many single steps leave, row by row, whatever came before it."""

import numpy as np
import pytest

import reverie as rv
from engine.test_extend import SPEC, add_each, check_equal, steps, tables

HOMES = [
    ("ram", "step"),
    ("ram", "chunk"),
    ("packed", "step"),
    ("packed", "chunk"),
    ("disk", "step"),
    ("disk", "chunk"),
]


def tell(buffer, dice, seed, by_stretches):
    """A story of calls, drawn by dice: two buffers with the same dice get the same ones."""
    for number in range(int(dice.integers(4, 9))):
        given, stream = (
            steps(1000 * seed + number, int(dice.integers(0, dice.choice([4, 40, 150])))),
            int(dice.integers(2)),
        )
        given["terminated"] &= dice.random() < 0.7  # also stretches whose episodes are long
        given["truncated"] &= dice.random() < 0.4
        if by_stretches:
            buffer.extend(**given, stream=stream)
        else:
            add_each(buffer, given, stream)
        act = dice.integers(6)
        if act == 0:
            buffer.cut(stream)
        elif act == 1 and (buffer.episodes["ended"] == "running").any():
            running = np.flatnonzero(buffer.episodes["ended"] == "running")[0]
            buffer.annotate(episode=int(buffer.episodes.ids[running]), task=number)
        elif act == 2:
            buffer.flush()
        elif act == 3 and len(buffer):
            batch = buffer.sample(3, 2, boundary="pad_both", sampler=rv.Prioritized())
            buffer.write_back(batch, latent=np.full((3, 2, 4), number, np.float32))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("residency", "durability"), HOMES)
def test_the_file_is_that_of_single_steps(residency, durability, seed, tmp_path):
    """Streams of a few steps, of one run, and of runs of two lengths; closed and opened again with episodes running."""
    capacity = 2 * [3, 32, 50, 64, 100, 2, 33, 96][seed]
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.replay"
        buffer = rv.ReplayBuffer(
            SPEC, capacity, streams=2, seed=0, residency=residency, durability=durability, path=path
        )
        for chapter in range(3):
            tell(buffer, np.random.default_rng([seed, chapter]), 10 * seed + chapter, number == 0)
            if chapter < 2:
                buffer.close()
                buffer = rv.open(path, seed=chapter, episodes=("new", "continue")[chapter])
        files.append(buffer)
    check_equal(*files)
    for buffer in files:
        buffer.close()
    assert tables(tmp_path / "0.replay") == tables(tmp_path / "1.replay")


@pytest.mark.parametrize("seed", range(6))
def test_packed_memory_is_that_of_single_steps(seed):
    """The same without a file, where the runs are packed before anything changes."""
    capacity = 2 * [3, 32, 50, 64, 100, 33][seed]
    buffers = [rv.ReplayBuffer(SPEC, capacity, streams=2, seed=0, residency="packed") for _ in range(2)]
    for number, buffer in enumerate(buffers):
        tell(buffer, np.random.default_rng(seed), seed, number == 0)
    check_equal(*buffers)
    assert buffers[0].nbytes == buffers[1].nbytes


def test_many_episodes_take_the_rows_that_they_would_have_taken():
    """The table of episodes doubles twice inside of one call, while old episodes go."""
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    buffers = [rv.ReplayBuffer(spec, 300, seed=0) for _ in range(2)]
    for count, period in ((290, 29), (1000, 1), (7, 5), (400, 2)):
        given = {"obs": np.arange(count), "action": np.arange(count), "reward": np.ones(count),
                 "terminated": np.arange(count) % period == period - 1, "truncated": np.zeros(count, bool)}  # fmt: skip
        buffers[0].extend(**given)
        for step in range(count):
            buffers[1].add(
                obs=step, action=step, reward=1.0, terminated=bool(given["terminated"][step]), truncated=False
            )
        one, other = (buffer.engine.index for buffer in buffers)
        np.testing.assert_array_equal(one.live_episodes(), other.live_episodes())
        assert one.free == other.free
