"""A stretch of steps leaves the file that as many single steps leave, row by row, whatever came before it."""

import numpy as np
import pytest

import reverie as rv
from engine.test_extend import SPEC, add_each, at, check_equal, steps, tables

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
    paths = [tmp_path / f"{number}.replay" for number in range(2)]
    buffers = [
        rv.ReplayBuffer(
            SPEC, capacity, streams=2, seed=0, residency=residency, durability=durability, path=path
        )
        for path in paths
    ]
    for chapter in range(4):
        for number, buffer in enumerate(buffers):
            tell(buffer, np.random.default_rng([seed, chapter]), 10 * seed + chapter, number == 0)
        check_equal(*buffers)
        assert tables(paths[0]) == tables(paths[1])  # as they are while they are written
        for buffer in buffers:
            buffer.close()
        assert tables(paths[0]) == tables(paths[1])
        if chapter < 3:
            episodes = "continue" if chapter == 1 else "new"
            buffers = [rv.open(path, seed=chapter, episodes=episodes) for path in paths]


@pytest.mark.parametrize("stretch", [1, 2, 31, 40, 70])
@pytest.mark.parametrize("before", [5, 32, 64, 90])
@pytest.mark.parametrize("durability", ["step", "chunk"])
def test_a_recording_that_goes_on_ends_the_last_one(durability, before, stretch, tmp_path):
    """An episode that ran when the file was closed is cut in it when it would be by single steps."""
    paths = [tmp_path / f"{number}.replay" for number in range(2)]
    given, early = steps(3, stretch), steps(4, before)
    for one in (given, early):
        one["terminated"][:] = one["truncated"][:] = False
    buffers = []
    for number, path in enumerate(paths):
        with rv.ReplayBuffer(SPEC, 64, seed=0, durability=durability, path=path) as buffer:
            buffer.extend(**early)
        buffers.append(rv.open(path, seed=0))
        if number:
            add_each(buffers[-1], given, 0)
        else:
            buffers[-1].extend(**given)
    assert tables(paths[0]) == tables(paths[1])
    check_equal(*buffers)
    for buffer in buffers:
        buffer.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("residency", "durability"), [("ram", None), ("packed", None), *HOMES])
def test_rows_of_lanes_are_as_many_batches(residency, durability, seed, tmp_path):
    """(T, lanes, …) leaves what T calls of `add_batch` leave; other streams have steps, too, and recordings go on."""
    paths = [None, None] if durability is None else [tmp_path / f"{number}.replay" for number in range(2)]
    buffers = [
        rv.ReplayBuffer(SPEC, 4 * [32, 50, 2, 100][seed], streams=4, seed=0, residency=residency, durability=durability, path=path)
        for path in paths
    ]  # fmt: skip
    dice = np.random.default_rng(seed)
    for number in range(6):
        if number == 3 and durability is not None:
            for buffer in buffers:
                buffer.close()
            buffers = [rv.open(path, seed=0) for path in paths]
        given, chosen = steps(50 * seed + number, int(dice.integers(0, 70)), 3), dice.permutation(4)[:3]
        if number % 2:
            given["final_obs"] = None
        alone = steps(99 + number, 7)
        for which, buffer in enumerate(buffers):
            if which:
                for place in range(len(given["reward"])):
                    buffer.add_batch(
                        **{name: None if rows is None else at(rows, place) for name, rows in given.items()},
                        streams=chosen,
                    )
            else:
                buffer.extend(**given, streams=chosen)
            add_each(buffer, alone, int(chosen[0]))
        check_equal(*buffers)
        if durability is not None:
            assert tables(paths[0]) == tables(paths[1])
    for buffer in buffers:
        buffer.close()


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
