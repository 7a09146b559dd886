"""What a call takes from its caller and from memory: arrays that change meanwhile, and rows of the table of episodes."""

import numpy as np
import pytest

import reverie as rv
from engine.test_extend import SPEC, steps
from reverie.engine import copies
from support.faults import Lines
from support.torn import copied, overwrite

PLAIN = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), {"tag": rv.Field((), "float32")})


def lanes(count, **changed):
    zeros = np.zeros(count, np.int64)
    none = np.zeros(count, np.bool_)
    return {"obs": zeros, "action": zeros, "reward": zeros.astype(np.float32), "terminated": none, "truncated": none,
            "tag": zeros.astype(np.float32), **changed}  # fmt: skip


def all_of(buffer):
    return [buffer.episode(number) for number in range(len(buffer.episodes))]


def test_steps_that_begin_no_episode_take_no_room_in_the_table():
    """Sixty-four streams take all rows of the first table; only an episode that begins makes it larger."""
    buffer = rv.ReplayBuffer(PLAIN, 64 * 10, streams=64, seed=0)
    index = buffer.engine.index
    for _ in range(3):
        buffer.add_batch(**lanes(64))
    for stream in (0, 1, 63):
        buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False, tag=0.0, stream=stream)
    assert (len(index.start), index.free) == (64, [])
    buffer.cut(1)
    buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False, tag=0.0, stream=1)
    assert len(index.start) == 128


@pytest.mark.parametrize("name", ["terminated", "truncated", "obs", "tag"])
def test_rows_of_lanes_that_are_none_are_refused(name):
    """One value for all, and rows of another number, are told by the name of the field."""
    buffer = rv.ReplayBuffer(PLAIN, 20, streams=2, seed=0)
    given = {key: np.zeros((3, 2), column.dtype) for key, column in lanes(2).items()}
    for value, shape in (
        (given[name][0, 0], r"\(\)"),
        (given[name][:2], r"\(2, 2\)"),
        (given[name][0], r"\(2,\)"),
    ):
        field = "extras/tag" if name == "tag" else name
        with pytest.raises(
            rv.SpecMismatch, match=rf"field '{field}': wanted a leading axis of 3 steps, .* got shape {shape}"
        ):
            buffer.extend(**{**given, name: value}, streams=[0, 1])
    assert len(buffer) == 0
    buffer.extend(**given, streams=[0, 1])
    assert len(buffer) == 6


@pytest.mark.parametrize("durability", [None, "step", "chunk"])
def test_arrays_that_change_meanwhile_leave_memory_as_the_file(durability, tmp_path):
    """Whenever another thread overwrites what is given: memory holds what the file has, and sums are those of what is stored."""
    path = None if durability is None else tmp_path / "a.replay"
    original = steps(3, 40)

    def made():
        return rv.ReplayBuffer(SPEC, 70, seed=0, durability=durability, path=path)

    count = Lines(lambda: None, 10**9)
    with made() as buffer:
        count.run(lambda: buffer.extend(**copied(original)))
    for line in range(2, count.seen, max(count.seen // 7, 1)):
        if path is not None:
            path.unlink()
        given = copied(original)
        buffer = made()
        Lines(lambda given=given: overwrite(given), line).run(
            lambda buffer=buffer, given=given: buffer.extend(**given)
        )
        rewards = np.concatenate([episode.reward for episode in all_of(buffer)])
        sums = [episode.reward.sum(dtype=np.float64) for episode in all_of(buffer)]
        assert len(rewards) == 40
        np.testing.assert_allclose(buffer.episodes["return"], sums, rtol=1e-6)
        if path is not None:
            buffer.flush()
            with rv.open(path, mode="r") as again:
                for mine, theirs in zip(all_of(buffer), all_of(again), strict=True):
                    for leaf in ("frame", "x"):
                        np.testing.assert_array_equal(mine.obs[leaf], theirs.obs[leaf])
                    np.testing.assert_array_equal(mine.action, theirs.action)
                    np.testing.assert_array_equal(mine.reward, theirs.reward)
                    np.testing.assert_array_equal(mine.extras["latent"], theirs.extras["latent"])
        buffer.close()


def recorded(path, residency="ram", steps_of=9):
    """Return a buffer with a file that holds some steps."""
    buffer = rv.ReplayBuffer(PLAIN, 40, seed=0, residency=residency, path=path)
    for step in range(steps_of):
        buffer.add(obs=step, action=0, reward=1.0, terminated=step % 3 == 2, truncated=False, tag=0.0)
    return buffer


def test_a_discarded_episode_is_marked_as_the_format_says(tmp_path):
    """In memory and in the file it has "reverie:discarded": true beside what was known of it."""
    with recorded(tmp_path / "a.replay") as buffer:
        buffer.annotate(episode=1, task="reach")
        buffer.discard([1])
        wanted = {1: {"task": "reach", "reverie:discarded": True}}
        assert buffer.engine.index.labels == wanted
        buffer.flush()
        with rv.open(tmp_path / "a.replay", mode="r") as again:
            assert again.engine.index.labels == wanted


@pytest.mark.parametrize("residency", ["ram", "disk"])
@pytest.mark.parametrize("mode", ["r+", "r"])
def test_a_copy_is_made_of_memory_where_the_file_cannot_be_read(residency, mode, tmp_path, monkeypatch):
    """If memory holds everything and this program writes the file; else the error comes out."""
    path, copy = tmp_path / "a.replay", tmp_path / "b.replay"
    recorded(path, residency).close()

    def refused(*_):
        raise rv.FileError("wanted a file that can be read, got a damaged one; restore it")

    monkeypatch.setattr(copies, "copy_file", refused)
    with rv.open(path, mode=mode, residency=residency) as buffer:
        if residency == "ram" and mode == "r+":
            buffer.save_as(copy)
            with rv.open(copy, mode="r") as again:
                assert [again.episode(number).obs.tolist() for number in range(3)] == [
                    [0, 1, 2],
                    [3, 4, 5],
                    [6, 7, 8],
                ]
            return
        with pytest.raises(rv.FileError, match="got a damaged one"):
            buffer.save_as(copy)
        assert not copy.exists()
        monkeypatch.undo()
        buffer.save_as(copy)
        assert copy.exists()


def test_a_rate_limit_lets_draws_begin_with_the_first_step():
    """Unless it is told: one step has to be there, and a wait ends after five minutes."""
    limit = rv.RateLimit(2.0, 8.0)
    assert (limit.samples_per_insert, limit.tolerance, limit.min_size, limit.wait_s) == (2.0, 8.0, 1, 300.0)
