"""Episodes read out of a buffer are what was added, wherever the bytes live."""

import numpy as np
import pytest

import reverie as rv

SPEC = rv.StepSpec(
    obs={"camera": rv.Field((2, 40, 40), "uint8"), "clock": rv.Field((), "int64")},
    action=rv.Field((2,), "float32"),
    extras={"logits": rv.Field((3,), "float32")},
)


def obs(stream, step):
    return {
        "camera": np.full((2, 40, 40), (stream * 100 + step) % 256, np.uint8),
        "clock": stream * 1000 + step,
    }


def fill(buffer, steps, ends):
    """Add steps to every stream; `ends` maps a step to how it ends: (terminated, truncated, shown), or "cut"."""
    for stream in range(buffer.streams):
        for step in range(steps):
            end = ends.get(step, (False, False, False))
            final = obs(stream, 500 + step)
            cut = end == "cut"
            terminated, truncated, shown = (False, False, False) if cut else end
            buffer.add(
                obs=obs(stream, step), action=np.array([step, stream], np.float32), reward=step / 4, logits=np.full(3, step, np.float32),
                terminated=terminated, truncated=truncated, final_obs=final if shown else None, stream=stream,
            )  # fmt: skip
            if cut:
                buffer.cut(stream, final_obs=final)


ENDS = {
    9: (True, False, True),
    19: (True, True, True),
    29: (False, True, False),
    44: "cut",
    50: (True, False, False),
}


def check(episode, stream, first, stop, begun, ended, final):
    """Compare an episode with what was added."""
    steps = range(first, stop)
    assert (episode.stream, episode.start, episode.begun, len(episode)) == (stream, first, begun, len(steps))
    assert (episode.ended, episode.is_whole, episode.running) == (ended, first == begun, ended == "running")
    wanted = [obs(stream, step) for step in steps]
    for name in ("camera", "clock"):
        np.testing.assert_array_equal(episode.obs[name], [one[name] for one in wanted])
        assert episode.obs[name].dtype == SPEC.obs[name].dtype
    np.testing.assert_array_equal(episode.action, [[step, stream] for step in steps])
    np.testing.assert_array_equal(episode.reward, np.array(steps, np.float32) / 4)
    np.testing.assert_array_equal(episode.extras["logits"], [[step] * 3 for step in steps])
    if final is None:
        assert episode.final_obs is None
    else:
        np.testing.assert_array_equal(episode.final_obs["camera"], obs(stream, final)["camera"])
        assert episode.final_obs["clock"] == obs(stream, final)["clock"]


@pytest.fixture(params=["ram", "packed", "disk"])
def buffer(request, tmp_path):
    path = tmp_path / "a.replay" if request.param == "disk" else None
    with rv.ReplayBuffer(SPEC, 96, streams=2, seed=0, residency=request.param, path=path) as buffer:
        yield buffer


def test_every_end_and_an_evicted_beginning(buffer):
    """Both flags, no final observation, a cut, a running one; the oldest episode lacks its first steps."""
    fill(buffer, 60, ENDS)
    rows = [(12, 20, 10, "terminated", 519), (20, 30, 20, "truncated", None), (30, 45, 30, "cut", 544),
            (45, 51, 45, "terminated", None), (51, 60, 51, "running", None)]  # fmt: skip
    episodes = list(buffer.read_episodes())
    assert len(episodes) == len(buffer.episodes) == 10
    for episode, (stream, row) in zip(episodes, [(s, r) for s in (0, 1) for r in rows], strict=True):
        check(episode, stream, *row)
    assert (episodes[0].terminated, episodes[0].truncated) == (True, True)
    check(buffer.episode(-1), 1, *rows[-1])
    check(buffer.episode(0), 0, *rows[0])
    assert [e.start for e in buffer.read_episodes([3, -10, 3])] == [45, 12, 45]


def test_the_arrays_are_the_readers_own(buffer):
    """Whoever writes into them changes nothing in the buffer, nor what is read next."""
    fill(buffer, 10, {9: (True, False, True)})
    buffer.annotate(episode=0, note=[1])
    one = buffer.episode(0)
    one.obs["camera"][:] = 7
    one.final_obs["camera"][:] = 7
    one.metadata["note"].append(2)
    check(buffer.episode(0), 0, 0, 10, 0, "terminated", 509)
    assert buffer.episode(0).metadata == {"note": [1]}
    assert buffer.episode(1).metadata == {}


def test_what_is_evicted_before_its_turn_is_left_out(buffer):
    """The others come whole; episodes that begin later do not come."""
    fill(buffer, 40, {9: (True, False, True), 19: (True, False, True), 29: (True, False, True)})
    reading = buffer.read_episodes()
    assert next(reading).start == 0
    for step in range(40, 62):
        buffer.add(obs=obs(0, step), action=np.zeros(2, np.float32), reward=0.0, terminated=step == 45, truncated=False,
                   logits=np.zeros(3, np.float32))  # fmt: skip
    starts = [(episode.stream, episode.start, episode.begun) for episode in reading]
    assert starts == [(0, 14, 10), (0, 20, 20), (0, 30, 30), (1, 0, 0), (1, 10, 10), (1, 20, 20), (1, 30, 30)]


def test_a_reader_of_a_file_sees_the_same(tmp_path):
    """While a writer goes on, each episode is of one moment."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(SPEC, 96, streams=2, seed=0, path=path) as writer:
        fill(writer, 30, ENDS)
        with rv.open(path, mode="r") as reader:
            reading = reader.read_episodes()
            check(next(reading), 0, 0, 10, 0, "terminated", 509)
            fill(writer, 5, {})
            assert [len(episode) for episode in reading] == [10, 10, 10, 10, 10]
            assert len(reader.episode(-1)) == 5


def test_what_is_not_there_is_refused():
    """A number beyond, and a closed buffer, also in the middle of reading."""
    buffer = rv.ReplayBuffer(SPEC, 96, seed=0)
    with pytest.raises(IndexError, match=r"wanted an episode in 0\.\.-1, got 0; there are 0"):
        buffer.episode(0)
    fill(buffer, 20, ENDS)
    with pytest.raises(IndexError, match=r"wanted an episode in -2\.\.1, got 2; there are 2"):
        buffer.read_episodes([0, 2])
    reading = buffer.read_episodes()
    next(reading)
    buffer.close()
    with pytest.raises(rv.BufferClosed):
        next(reading)
    with pytest.raises(rv.BufferClosed):
        buffer.episode(0)


def test_it_says_what_it_is():
    """Its repr tells steps, return and end."""
    buffer = rv.ReplayBuffer(SPEC, 96, seed=0)
    fill(buffer, 12, ENDS)
    assert repr(buffer.episode(0)) == "Episode(10 steps, return 11.25, terminated)"
    assert repr(buffer.episode(1)) == "Episode(2 steps, return 5.25, running)"
