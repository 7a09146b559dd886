"""What the buffer promises, one promise at a time."""

import dataclasses
import threading
import zlib

import numpy as np
import pytest

import reverie as rv
from reverie.testing import NaiveBuffer
from support.buffers import assert_row_equals, fill, rich_obs, rich_spec, rich_step, scalar_spec


def pixel_spec() -> rv.StepSpec:
    return rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))


def test_a_window_shows_the_final_observation_after_the_last_step():
    """The successor of an episode's last step is what the environment showed, not the next reset frame."""
    buffer = rv.ReplayBuffer(scalar_spec(), 10, seed=0)
    buffer.add(obs=1, action=0, reward=0.0, terminated=False, truncated=False)
    buffer.add(obs=2, action=0, reward=0.0, terminated=True, truncated=False, final_obs=3)
    buffer.add(obs=100, action=0, reward=0.0, terminated=False, truncated=False)
    batch = buffer.sample(4, 2)
    np.testing.assert_array_equal(batch.obs, [[1, 2, 3]] * 4)
    assert batch.obs_mask.all()
    np.testing.assert_array_equal(batch.terminated, [[False, True]] * 4)


def test_an_unknown_final_observation_is_the_last_frame_repeated_and_masked():
    """Without a final observation the last frame stands in its place and obs_mask says so."""
    buffer = rv.ReplayBuffer(scalar_spec(), 10, seed=0)
    buffer.add(obs=1, action=0, reward=0.0, terminated=False, truncated=False)
    buffer.add(obs=2, action=0, reward=0.0, terminated=False, truncated=True)
    buffer.add(obs=100, action=0, reward=0.0, terminated=False, truncated=False)
    batch = buffer.sample(4, 2)
    np.testing.assert_array_equal(batch.obs, [[1, 2, 2]] * 4)
    np.testing.assert_array_equal(batch.obs_mask, [[True, True, False]] * 4)
    assert batch.truncated[:, 1].all()
    assert not batch.terminated.any()


def test_a_final_observation_is_evicted_with_its_episode_and_its_place_used_again():
    """Final observations are held once per live episode: a long run does not make them grow."""
    buffer = rv.ReplayBuffer(scalar_spec(), 8, seed=0)
    for number in range(5000):
        buffer.add(obs=number, action=0, reward=0.0, terminated=True, truncated=False, final_obs=-number)
        if number == 100:
            early = buffer.nbytes
    assert buffer.nbytes == early
    batch = buffer.sample(50, 1)
    np.testing.assert_array_equal(batch.obs[:, 1], -batch.obs[:, 0])


def test_a_cut_joins_nothing_and_marks_no_end():
    """No window spans a cut, and its last step is neither terminated nor truncated."""
    buffer = rv.ReplayBuffer(scalar_spec(), 10, seed=0)
    for number in range(3):
        buffer.add(obs=number, action=0, reward=0.0, terminated=False, truncated=False)
    buffer.cut(0, final_obs=77)
    buffer.cut(0)
    for number in range(10, 13):
        buffer.add(obs=number, action=0, reward=0.0, terminated=False, truncated=False)
    assert buffer.count_windows(3) == 1
    batch = buffer.sample(8, 3)
    np.testing.assert_array_equal(batch.obs, [[0, 1, 2, 77]] * 8)
    assert not batch.terminated.any()
    assert not batch.truncated.any()
    assert buffer.episodes["ended"].tolist() == ["cut", "running"]


def test_nested_observations_and_extras_come_back_exactly():
    """Dict observations, vector actions and extra fields survive adds in batches, wraps and sampling."""
    buffer = rv.ReplayBuffer(rich_spec(), 60, streams=3, seed=1)
    twin = NaiveBuffer(60, 3)
    rng = np.random.default_rng(0)
    for number in range(70):
        steps, finals = [], []
        for stream in range(3):
            ends = bool(rng.random() < 0.1)
            steps.append(rich_step(number * 3 + stream, truncated=ends))
            finals.append(rich_obs(1000 + number * 3 + stream))
            twin.add(**steps[-1], stream=stream, final_obs=finals[-1] if ends else None)
        stack = lambda *values: np.stack(values)  # noqa: E731
        buffer.add_batch(**_stack(steps, stack), final_obs=_stack(finals, stack))
    assert len(buffer) == len(twin) == 60
    for length in (1, 4, 9):
        assert buffer.count_windows(length) == len(twin.windows(length))
        batch = buffer.sample(64, length)
        for row in range(64):
            address = int(batch.stream[row]), int(batch.start[row])
            assert address in twin.windows(length)
            assert_row_equals(batch, row, twin.window(*address, length))


def _stack(values, stack):
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values], stack) for key in values[0]}
    return stack(*[np.asarray(value) for value in values])


def test_single_steps_show_their_own_successor():
    """sample_steps returns each settled step with what came of it."""
    buffer = rv.ReplayBuffer(scalar_spec(), 50, streams=2, seed=3)
    twin = fill(buffer, 70, 5.0, seed=4)
    batch = buffer.sample_steps(500)
    seen = set()
    for row in range(500):
        address = int(batch.stream[row]), int(batch.id[row])
        window = twin.window(*address, 1)
        assert [batch.obs[row], batch.next_obs[row]] == window.obs
        assert batch.next_obs_mask[row] == window.obs_mask[1]
        assert batch.action[row] == window.action[0]
        assert (batch.terminated[row], batch.truncated[row]) == (window.terminated[0], window.truncated[0])
        seen.add(address)
    assert seen == twin.windows(1)


def test_a_batch_is_yours():
    """Writing into a batch changes nothing stored, and later adds and samples change no batch."""
    buffer = rv.ReplayBuffer(pixel_spec(), 40, seed=0)
    for number in range(40):
        buffer.add(obs=np.full((3, 64, 64), number, np.uint8), action=number, reward=0.0, terminated=False,
                   truncated=False)  # fmt: skip
    batch = buffer.sample(64, 8)
    kept = batch.obs.copy()
    later = [buffer.sample(64, 8) for _ in range(10)]
    for number in range(40):
        buffer.add(obs=np.full((3, 64, 64), 200, np.uint8), action=number, reward=0.0, terminated=False,
                   truncated=False)  # fmt: skip
    np.testing.assert_array_equal(batch.obs, kept)
    batch.obs[...] = 255
    assert (buffer.sample(8, 8).obs == 200).all()
    assert len({batch.obs.ctypes.data for batch in [*later, batch]}) == 11, "no two live batches share memory"


def test_a_view_keeps_its_batch_memory_alive():
    """The memory of a batch is used again only when the last view of it is gone."""
    buffer = rv.ReplayBuffer(pixel_spec(), 40, seed=0)
    for number in range(40):
        buffer.add(obs=np.full((3, 64, 64), number, np.uint8), action=number, reward=0.0, terminated=False,
                   truncated=False)  # fmt: skip
    batch = buffer.sample(64, 8)
    place = batch.obs.ctypes.data
    view = batch.obs[3:5, 1]
    kept = view.copy()
    del batch
    assert all(buffer.sample(64, 8).obs.ctypes.data != place for _ in range(10))
    np.testing.assert_array_equal(view, kept)
    del view
    assert place in {buffer.sample(64, 8).obs.ctypes.data for _ in range(10)}


def test_out_fills_the_same_arrays():
    """With out= the earlier batch is filled again, padding flags and weights included."""
    buffer = rv.ReplayBuffer(scalar_spec(), 50, seed=5)
    fill(buffer, 80, 6.0, seed=6)
    twin_buffer = rv.ReplayBuffer(scalar_spec(), 50, seed=5)
    fill(twin_buffer, 80, 6.0, seed=6)
    out = buffer.sample(16, 3)
    place = out.obs.ctypes.data
    for name in ("mask", "obs_mask", "terminated", "is_first"):
        getattr(out, name)[...] = ~getattr(out, name)
    out.weight[...] = 7.0
    assert buffer.sample(16, 3, out=out) is out
    assert out.obs.ctypes.data == place
    twin_buffer.sample(16, 3)
    wanted = twin_buffer.sample(16, 3)
    for name in (
        "obs",
        "obs_mask",
        "mask",
        "terminated",
        "truncated",
        "is_first",
        "weight",
        "stream",
        "start",
    ):
        np.testing.assert_array_equal(getattr(out, name), getattr(wanted, name), err_msg=name)


def test_the_seed_decides_the_batches():
    """Equal seeds give equal batches, other seeds others, and the global generator plays no part."""

    def starts(seed):
        buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=seed)
        fill(buffer, 150, 10.0, seed=0)
        np.random.seed(0)  # noqa: NPY002  # on purpose: it must not matter
        return [buffer.sample(8, 3).start.tolist() for _ in range(3)]

    assert starts(1) == starts(1)
    assert starts(1) != starts(2)
    assert starts(None) != starts(None)


def test_the_episode_table_says_what_happened():
    """Episodes come with stream, ids, lengths, returns and how they ended, oldest first, live ones only."""
    buffer = rv.ReplayBuffer(scalar_spec(), 6, seed=0)
    ends = {2: "terminated", 4: "truncated", 8: "both"}
    for number in range(10):
        kind = ends.get(number)
        buffer.add(obs=number, action=0, reward=number, terminated=kind in ("terminated", "both"),
                   truncated=kind in ("truncated", "both"))  # fmt: skip
    table = buffer.episodes
    assert table["start"].tolist() == [3, 5, 9]
    assert table["stop"].tolist() == [5, 9, 10]
    assert table["length"].tolist() == [2, 4, 1]
    assert table["live"].tolist() == [1, 4, 1]
    assert table["return"].tolist() == [7.0, 26.0, 9.0]
    assert table["ended"].tolist() == ["truncated", "terminated", "running"]
    assert rv.ReplayBuffer(scalar_spec(), 6).episodes.shape == (0,)


def test_size_is_printed_at_construction():
    """repr names steps, streams, fields and the bytes the ring will take, before anything is stored."""
    buffer = rv.ReplayBuffer(pixel_spec(), 1000, streams=2)
    text = repr(buffer)
    for part in ("0 of 1,000 steps", "2 streams", "12.3", "MB", "obs (3, 64, 64) uint8"):
        assert part in text
    assert 1000 * (3 * 64 * 64 + 8 + 4) <= buffer.nbytes <= 1000 * (3 * 64 * 64 + 8 + 4 + 4) + 10_000


def test_too_little_data_raises_and_says_how_much_there_is():
    """NotEnoughData is a ValueError that names the longest episode; no zeros are ever returned."""
    buffer = rv.ReplayBuffer(scalar_spec(), 50, seed=0)
    with pytest.raises(rv.NotEnoughData, match="0 live steps"):
        buffer.sample(4, 3)
    with pytest.raises(rv.NotEnoughData):
        buffer.sample_steps(4)
    for number in range(3):
        buffer.add(obs=number, action=0, reward=0.0, terminated=False, truncated=False)
    with pytest.raises(ValueError, match="longest episode has 2"):
        buffer.sample(4, 3)
    assert buffer.sample(4, 2).start.tolist() == [0] * 4


def test_after_close_nothing_is_taken_or_given():
    """A closed buffer refuses adds, cuts and samples with BufferClosed; closing twice is fine."""
    with rv.ReplayBuffer(scalar_spec(), 5, seed=0) as buffer:
        step = {"obs": 1, "action": 0, "reward": 0.0, "terminated": True, "truncated": False}
        buffer.add(**step)
    buffer.close()
    for call in (lambda: buffer.add(**step), lambda: buffer.cut(0), lambda: buffer.sample(1, 1),
                 lambda: buffer.sample_steps(1)):  # fmt: skip
        with pytest.raises(rv.BufferClosed, match="closed"):
            call()
    assert "closed" in repr(buffer)


@pytest.mark.parametrize("streams", [1, 4])
def test_no_torn_window_while_a_writer_wraps_the_ring(streams):
    """Readers in four threads see only whole, joined steps: each carries a checksum of itself."""
    spec = rv.StepSpec(rv.Field((260,), "uint8"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 40 * streams, streams=streams, seed=0)
    stop, problems = threading.Event(), []

    def frame(stream, number):
        body = np.full(256, number % 251, np.uint8)
        body[:2] = stream, number % 7
        return np.concatenate([body, np.frombuffer(zlib.crc32(body).to_bytes(4, "little"), np.uint8)])

    def write():
        number = 0
        while not stop.is_set():
            for stream in range(streams):
                buffer.add(obs=frame(stream, number), action=number, reward=0.0, terminated=number % 17 == 16,
                           truncated=False, stream=stream)  # fmt: skip
            number += 1

    def read():
        try:
            for _ in range(150):
                batch = buffer.sample(8, 6)
                for row in range(8):
                    for frames, action in zip(batch.obs[row], batch.action[row], strict=False):
                        assert zlib.crc32(frames[:256]) == int.from_bytes(frames[256:].tobytes(), "little")
                        assert frames[0] == batch.stream[row]
                        assert frames[5] == action % 251
                assert (np.diff(batch.action, axis=1) == 1).all()
        except Exception as error:
            problems.append(error)

    for step in range(20):
        for stream in range(streams):
            buffer.add(
                obs=frame(stream, step),
                action=step,
                reward=0.0,
                terminated=False,
                truncated=False,
                stream=stream,
            )
    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(4)]
    for stream in range(streams):
        buffer.cut(stream)
    for thread in [writer, *readers]:
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    writer.join()
    assert not problems


def test_a_batch_whose_array_was_replaced_is_filled_in_that_array():
    """A batch made of another one by hand is looked at before it is filled, and what it was made of stays as it is."""
    buffer = rv.ReplayBuffer(scalar_spec(), 50, seed=0)
    fill(buffer, 80, 9, seed=0)
    batch = buffer.sample(8, 3)
    before = batch.obs.copy()
    for blank in (np.zeros_like(batch.obs), np.zeros((8, 4), np.int32)):
        other = dataclasses.replace(
            batch, obs=blank, mask=np.zeros((8, 3), bool), is_first=np.ones((8, 4), bool)
        )
        if blank.dtype == np.int32:
            with pytest.raises(rv.BadSetting, match="wanted 'obs'"):
                buffer.sample(8, 3, out=other)
            continue
        assert buffer.sample(8, 3, out=other) is other
        assert (other.obs[:, 0] == other.start).all()
        assert other.mask.all()
        assert other.is_first.sum() < 8
    assert (batch.obs == before).all()
