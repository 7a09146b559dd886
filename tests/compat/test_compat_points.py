"""What the classes of this name in TorchWM and Simulusion get wrong, point by point.

Point 14, threads, has a file of its own.
"""

import sys

import numpy as np
import pytest
from scipy import stats
from test_compat import SHAPE, Pair, frame, load, make, numbers, save

import reverie as rv


def test_01_no_window_crosses_the_write_head():
    """In a wrapped ring without any end, every window counts on by one: the newest never meets the oldest."""
    pair = Pair(20)
    for _ in range(33):
        pair.add()
        if len(pair.buffer) > 8:
            assert (np.diff(numbers(pair.buffer.sample_sequence(8)[0]), axis=1) == 1).all()
    pair.check(8, 19)


@pytest.mark.parametrize("episode", [20, 50])
def test_02_no_window_holds_an_inner_end(episode):
    """With short episodes and windows of 20 steps, a terminal stands at the last place or nowhere."""
    buffer = make(1000, seq_len=20)
    for number in range(1500):
        buffer.add(frame(number), 0, 0.0, number % episode == episode - 1)
    for _ in range(40):
        obs, _, _, terminals = buffer.sample_sequence()
        assert not terminals[:, :-1].any()
        steps = numbers(obs[:, :-1])
        assert (steps // episode == steps[:, :1] // episode).all()
        np.testing.assert_array_equal(terminals[:, -1], steps[:, -1] % episode == episode - 1)


def test_03_after_the_end_comes_the_final_observation():
    """The frame after a last step is the one given as final_obs, else the last one again; never a reset frame."""
    pair = Pair(30)
    pair.fill(80, ends=("terminal", "truncated"), mean=4.0, final=True)
    pair.check(1, 2, 3)
    pair.fill(80, ends=("terminal", "truncated"), mean=4.0, seed=1)
    pair.check(1, 2, 3)
    buffer = make(10)
    for number, final in ((1, frame(99)), (2, None), (3, None)):
        buffer.add(frame(number), 0, 0.0, True, final_obs=final)
    rows = {tuple(row) for row in numbers(buffer.sample_sequence(1)[0]).tolist()}
    assert rows == {(1, 99), (2, 2), (3, 3)}


@pytest.mark.parametrize(
    ("steps", "mean", "length"), [(50, 9.0, 3), (130, 9.0, 3), (130, 500.0, 5), (130, 4.0, 9)]
)
def test_04_every_valid_window_is_equally_likely(steps, mean, length):
    """Chi-square over all valid windows, the oldest and the newest among them: p > 0.001."""
    pair = Pair(60, batch_size=500)
    pair.fill(steps, ends=("terminal", "truncated"), mean=mean, seed=3)
    valid = sorted(start for _, start in pair.twin.windows(length))
    counts = dict.fromkeys(valid, 0)
    for _ in range(max(20, len(valid) // 2)):
        for start in numbers(pair.buffer.sample_sequence(length)[0][:, 0]).tolist():
            counts[start] += 1
    assert counts[valid[0]] > 0
    assert counts[valid[-1]] > 0
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("draw", ["single", "frames", "burn-in"])
def test_04_every_stored_step_is_equally_likely(draw):
    """Single transitions, frames and burn-in starts are uniform over all stored steps, ends included."""
    pair = Pair(40)
    pair.fill(70, seed=4)
    draws = {
        "single": lambda: np.array([numbers(pair.buffer.sample_single()[0]) for _ in range(200)]),
        "frames": lambda: numbers(pair.buffer.sample_frames(200)),
        "burn-in": lambda: numbers(pair.buffer.sample_with_burn_in(200, 2)[0]),
    }
    seen = np.concatenate([draws[draw]() for _ in range(40)])
    counts = np.bincount(seen - 30, minlength=40)
    assert (len(counts), counts.min() > 0) == (40, True)
    assert stats.chisquare(counts).pvalue > 0.001


def test_05_too_little_data_is_an_error():
    """NotEnoughData, a ValueError, says what the longest episode has and what is needed; zeros never come."""
    buffer = make(30, seq_len=5)
    for call in (buffer.sample_sequence, buffer.sample_single, lambda: buffer.sample_frames(1),
                 lambda: buffer.sample_with_burn_in(1, 1)):  # fmt: skip
        with pytest.raises(rv.NotEnoughData, match="wanted"):
            call()
    for number in range(12):
        buffer.add(frame(number), 0, 0.0, number % 4 == 3)
    with pytest.raises(ValueError, match=r"window of 5 steps.* longest episode has 4"):
        buffer.sample_sequence()
    assert buffer.sample_sequence(4)[0].shape == (64, 5, *SHAPE)


@pytest.mark.parametrize("seq_len", [0, -1, 11, 2.5, 4.0, True, "4", 2**70])
def test_06_an_impossible_length_is_refused(seq_len):
    """A length above the ring, below one or not whole raises BadSetting, when asked for or when constructed."""
    buffer = make(10)
    for number in range(25):
        buffer.add(frame(number), 0, 0.0, False)
    with pytest.raises(rv.BadSetting, match="seq_len: wanted"):
        buffer.sample_sequence(seq_len)
    if seq_len not in (11, 2**70):
        with pytest.raises(rv.BadSetting, match="seq_len: wanted"):
            make(10, seq_len=seq_len)


def test_07_truncations_and_cuts_are_seams():
    """No window spans a truncation or a cut, neither shows as a terminal, and cutting twice is cutting once."""
    pair = Pair(100)
    pair.cut()
    for end in ("", "", "truncated", "", "", "cut", "", "", "terminal", "", ""):
        pair.add("" if end == "cut" else end)
        if end == "cut":
            pair.cut()
            pair.cut()
    pair.check(1, 2, 3, 4)
    assert {tuple(row) for row in numbers(pair.buffer.sample_sequence(3)[0]).tolist()} == {
        (0, 1, 2, 2), (3, 4, 5, 5), (6, 7, 8, 8)}  # fmt: skip
    assert pair.buffer.episodes == 1
    assert pair.buffer.terminals[:11].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]


REFUSED_FRAMES = {
    "floats in 0..1": np.full(SHAPE, 0.5, np.float32), "float16": np.ones(SHAPE, np.float16),
    "int64": np.ones(SHAPE, np.int64), "big-endian uint16": np.ones(SHAPE, ">u2"), "int8": np.ones(SHAPE, np.int8),
    "objects": np.ones(SHAPE, object), "complex": np.ones(SHAPE, complex), "list over 255": [[[1, 2], [3, 256]]],
    "negative list": [[[1, 2], [3, -1]]], "list of floats": [[[1.0, 2], [3, 4]]], "text": "frame",
}  # fmt: skip


@pytest.mark.parametrize("obs", REFUSED_FRAMES.values(), ids=REFUSED_FRAMES)
def test_08_a_frame_that_uint8_cannot_hold_is_refused(obs):
    """Floats and other dtypes raise SpecMismatch, as final observations too, and nothing is stored."""
    buffer = make(10)
    with pytest.raises(rv.SpecMismatch, match="field 'obs'"):
        buffer.add(obs, 0, 0.0, False)
    with pytest.raises(rv.SpecMismatch, match="field 'final_obs'"):
        buffer.add(frame(1), 0, 0.0, True, final_obs=obs)
    assert (len(buffer), buffer.steps, buffer.episodes) == (0, 0, 0)
    with pytest.raises(rv.SpecMismatch, match="as uint8"):
        buffer.add(np.zeros(SHAPE), 0, 0.0, False)


class Subclass(np.ndarray):
    pass


GOOD_FRAMES = {
    "strided": np.arange(16, dtype=np.uint8).reshape(1, 4, 4)[:, ::2, ::-2], "bool": np.ones(SHAPE, bool),
    "Fortran order": np.asfortranarray(np.arange(4, dtype=np.uint8).reshape(SHAPE)),
    "read-only": np.broadcast_to(np.uint8(3), SHAPE), "subclass": np.full(SHAPE, 5, np.uint8).view(Subclass),
    "list": [[[1, 2], [3, 255]]],
}  # fmt: skip


@pytest.mark.parametrize("obs", GOOD_FRAMES.values(), ids=GOOD_FRAMES)
def test_08_any_frame_that_loses_nothing_is_taken(obs):
    """Memory order, write protection and subclasses of arrays change nothing of what is stored."""
    buffer = make(10)
    buffer.add(obs, 0, 0.0, False)
    np.testing.assert_array_equal(buffer.sample_single()[0], np.asarray(obs))


@pytest.mark.parametrize("obs", [np.ones((1, 1, 2), np.uint8), np.ones((2, 2), np.uint8), np.uint8(1),
                                 np.ones((1, *SHAPE), np.uint8), np.ones(0, np.uint8), [[[1, 2], [3]]]],
                         ids=lambda obs: str(getattr(obs, "shape", "ragged")))  # fmt: skip
def test_09_nothing_is_broadcast_into_a_frame(obs):
    """A frame of another shape raises SpecMismatch, and nothing is stored."""
    buffer = make(10)
    with pytest.raises(rv.SpecMismatch, match="field 'obs': wanted"):
        buffer.add(obs, 0, 0.0, False)
    assert len(buffer) == 0


def test_09_an_integer_action_is_stored_one_hot():
    """Integers of any kind in range become one-hot vectors, float vectors stay as they are."""
    buffer = make(20)
    for action in (2, np.int8(2), np.array(2), np.uint64(2), [0, 0, 1], np.array([0, 0, 1], ">f8"),
                   [False, False, True], np.array([False, False, True]), np.eye(3, dtype=np.float32)[2]):  # fmt: skip
        buffer.add(frame(1), action, 0.0, False)
    np.testing.assert_array_equal(buffer.actions[:9], [[0, 0, 1]] * 9)
    buffer.add(frame(1), np.array([0.5, -2.0, 9.0]), 0.0, False)
    np.testing.assert_array_equal(buffer.actions[9], [0.5, -2.0, 9.0])


@pytest.mark.parametrize("action", [3, -1, 2**70, np.uint64(2**63), 1.0, np.float32(1), True, [1, 2], [[0, 0, 1]],
                                    np.zeros((3, 1)), np.True_, [2**24 + 1, 0, 0], [np.inf, 0, 0], np.array([1, 2, 3], object), "1", None],
                         ids=repr)  # fmt: skip
def test_09_any_other_action_is_refused(action):
    """Integers out of range, scalars that are no integers and other shapes raise SpecMismatch."""
    buffer = make(10)
    with pytest.raises(rv.SpecMismatch, match="field 'action': wanted"):
        buffer.add(frame(1), action, 0.0, False)
    assert (len(buffer), buffer.steps) == (0, 0)


@pytest.mark.parametrize(("reward", "terminal"), [(np.nan, 0), (np.inf, 0), (-np.inf, 0), (1e39, 0), ("1", 0), (None, 0),
                                                  ([1.0], 0), (0.0, np.nan), (0.0, np.inf), (0.0, 0.5), (0.0, 2),
                                                  (0.0, None), (0.0, "False")])  # fmt: skip
def test_10_rewards_and_terminals_that_are_no_numbers_are_refused(reward, terminal):
    """NaN, infinities and what is neither 0 nor 1 raise SpecMismatch: no episode is counted, nothing stored."""
    buffer = make(10)
    with pytest.raises(rv.SpecMismatch, match=r"field '(reward|terminal)': wanted"):
        buffer.add(frame(1), 0, reward, terminal)
    assert (len(buffer), buffer.steps, buffer.episodes) == (0, 0, 0)


def test_10_every_spelling_of_a_terminal_means_the_same():
    """Bools, integers, floats and NumPy's kinds of them end an episode or do not; -0.0 is no seam."""
    buffer = make(20)
    for terminal in (True, 1, 1.0, np.True_, np.float32(1), np.array(1), np.uint8(1)):
        buffer.add(frame(1), 0, 0.0, terminal)
    for terminal in (False, 0, 0.0, -0.0, np.False_, np.float32(-0.0), np.array(0)):
        buffer.add(frame(1), 0, 0.0, terminal)
    assert buffer.episodes == 7
    assert buffer.terminals[:14].tolist() == [1.0] * 7 + [0.0] * 7
    assert buffer.sample_sequence(6)[0].shape[1] == 7


def test_11_a_single_transition_is_yours():
    """sample_single returns copies that later steps do not change, and an empty buffer raises NotEnoughData."""
    buffer = make(1)
    with pytest.raises(rv.NotEnoughData, match="empty buffer"):
        buffer.sample_single()
    buffer.add(frame(1), 1, 2.5, True)
    obs, action, reward, terminal = buffer.sample_single()
    buffer.add(frame(2), 2, 3.5, False)
    np.testing.assert_array_equal(obs, frame(1))
    assert (action.tolist(), reward, terminal) == ([0, 1, 0], 2.5, 1.0)
    obs[...] = 9
    np.testing.assert_array_equal(buffer.observations[0], frame(2))


def test_12_the_random_choices_are_the_buffers_own():
    """Equal seeds give equal streams of every draw, others do not, and np.random is neither read nor moved."""

    def draws(seed, disturbed=0):
        buffer = make(60, seed=seed)
        for number in range(90):
            buffer.add(frame(number), 0, 0.0, number % 11 == 10)
        np.random.seed(disturbed)  # noqa: NPY002  # on purpose: it must not matter
        before = np.random.get_state()[1].tolist()  # noqa: NPY002
        seen = []
        for _ in range(3):
            seen += [numbers(buffer.sample_sequence()[0]).tolist(), numbers(buffer.sample_frames(8)).tolist(),
                     numbers(buffer.sample_single()[0]).tolist(),
                     [numbers(frames).tolist() for frames in buffer.sample_with_burn_in(8, 3)]]  # fmt: skip
        assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
        return seen

    first = draws(1)
    assert draws(1, disturbed=5) == first
    assert first[:4] != first[4:8]
    assert draws(2) != first
    assert draws(None) != draws(None)


@pytest.mark.parametrize("setting", [
    {"size": 0}, {"size": -3}, {"size": 2.0}, {"size": True}, {"size": None}, {"obs_shape": ()}, {"obs_shape": (0, 4)},
    {"obs_shape": (-1, 4)}, {"obs_shape": (1.5, 4)}, {"obs_shape": "ab"}, {"action_size": 0}, {"action_size": 1.5},
    {"seq_len": 0}, {"seq_len": -1}, {"batch_size": 0}, {"batch_size": 2.5}, {"seed": -1}, {"seed": "a"},
], ids=str)  # fmt: skip
def test_13_bad_settings_are_refused_at_construction(setting):
    """A size, shape, count or seed that is none raises BadSetting, which says what was wanted."""
    with pytest.raises(rv.BadSetting, match="wanted"):
        rv.IRISReplayBuffer(**{"size": 10, "obs_shape": SHAPE, "action_size": 3, **setting})


def test_13_a_size_that_does_not_fit_is_refused_before_memory_is_taken():
    """More than the machine has raises TooLarge, a MemoryError, at once."""
    with pytest.raises(MemoryError, match="lower the size"):
        rv.IRISReplayBuffer(10**12, (3, 64, 64), 18)


def test_15_a_checkpoint_resumes(tmp_path):
    """Through np.savez and back, contents, episodes and counters are those of the buffer that was saved."""
    pair = Pair(50)
    pair.fill(120, ends=("terminal", "truncated", "cut"))
    save(pair.buffer, tmp_path / "buffer.npz")
    saved, pair.buffer = pair.buffer, make(50, seed=9)
    load(pair.buffer, tmp_path / "buffer.npz")
    for name in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(getattr(pair.buffer, name), getattr(saved, name))
    pair.check(1, 2, 4, 7)


def test_15_a_buffer_with_a_path_resumes(tmp_path):
    """At any moment the file gives back arrays, counters, seams and the next batch; a copy does, too.

    What is added after it was opened joins nothing that was there, as after a cut.
    """
    pair = Pair(50, path=tmp_path / "buffer.replay")
    twin = Pair(50)
    for turn in range(6):
        pair.twin.cut()
        twin.cut()
        for one in (pair, twin):
            one.fill(31, ends=("terminal", "truncated", "cut"), seed=turn, final=True)
        pair.buffer.save_as(tmp_path / f"copy-{turn}.replay")
        pair.buffer.close()
        for name in (f"copy-{turn}.replay", "buffer.replay"):
            resumed = rv.IRISReplayBuffer.open(tmp_path / name)
            for array in ("observations", "actions", "rewards", "terminals"):
                ours, wanted = getattr(resumed, array), getattr(twin.buffer, array)
                assert ours.tobytes() == wanted.tobytes(), array
            for counter in ("idx", "full", "steps", "episodes", "seq_len", "batch_size", "size", "obs_shape"):
                assert getattr(resumed, counter) == getattr(twin.buffer, counter), counter
            if name != "buffer.replay":
                resumed.close()
        pair.buffer = resumed
        for ours, wanted in zip(pair.buffer.sample_sequence(2), twin.buffer.sample_sequence(2), strict=True):
            np.testing.assert_array_equal(ours, wanted)
        np.testing.assert_array_equal(pair.buffer.sample_frames(9), twin.buffer.sample_frames(9))
    pair.check(1, 2, 4)
    pair.buffer.close()


def test_15_a_restored_checkpoint_goes_into_the_file(tmp_path):
    """Arrays written by hand reach the file once a counter is set, and what follows is not joined to them."""
    pair = Pair(50)
    pair.fill(120, ends=("terminal", "truncated", "cut"))
    save(pair.buffer, tmp_path / "buffer.npz")
    with make(50, seed=9, path=tmp_path / "buffer.replay") as buffer:
        buffer.add(frame(7), 0, 0.0, False)
        load(buffer, tmp_path / "buffer.npz")
    with rv.IRISReplayBuffer.open(tmp_path / "buffer.replay") as buffer:
        for name in ("observations", "actions", "rewards", "terminals"):
            np.testing.assert_array_equal(getattr(buffer, name), getattr(pair.buffer, name))
        running = buffer._buffer.episodes[-1]["ended"] == "running"
        buffer.add(frame(8), 0, 0.0, False)
        assert buffer._buffer.episodes[-1]["length"] == 1
        assert buffer.episodes == pair.buffer.episodes
        assert running == (pair.buffer._buffer.episodes[-1]["ended"] == "running")


def test_15_the_file_of_another_buffer_is_refused(tmp_path):
    """A ReplayBuffer's file is no IRISReplayBuffer's."""
    spec = rv.StepSpec(rv.Field(SHAPE, "uint8"), rv.Field((), "int64"))
    rv.ReplayBuffer(spec, 10, path=tmp_path / "other.replay").close()
    with pytest.raises(
        rv.FileError, match=r"wanted the file of an IRISReplayBuffer, got another buffer's; name one"
    ):
        rv.IRISReplayBuffer.open(tmp_path / "other.replay")


def calls(task) -> int:
    """How many functions a task calls, Python's and NumPy's."""
    count = 0

    def hook(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hook)
    try:
        task()
    finally:
        sys.setprofile(None)
    return count


def test_16_a_batch_costs_no_python_per_step():
    """Batches of 4 x 2 and of 256 x 40 steps take the same number of calls, and so do frames and burn-ins."""
    buffer = make(1000)
    for number in range(1500):
        buffer.add(frame(number), 0, 0.0, False)

    def sequence(batch_size, length):
        buffer.batch_size = batch_size
        buffer.sample_sequence(length)
        return calls(lambda: buffer.sample_sequence(length))

    assert abs(sequence(4, 2) - sequence(256, 40)) <= 20
    assert calls(lambda: buffer.sample_frames(4)) == calls(lambda: buffer.sample_frames(4096))
    assert calls(lambda: buffer.sample_with_burn_in(4, 2)) == calls(
        lambda: buffer.sample_with_burn_in(512, 20)
    )


def test_16_the_memory_of_a_batch_is_used_again():
    """A large batch that nobody looks at any more gives its memory to a later one, and never before."""
    buffer = rv.IRISReplayBuffer(50, (3, 64, 64), 3, seq_len=8, batch_size=8, seed=0)
    for number in range(50):
        buffer.add(np.full((3, 64, 64), number, np.uint8), 0, 0.0, False)
    batch = buffer.sample_sequence()[0]
    place = batch.ctypes.data
    assert all(buffer.sample_sequence()[0].ctypes.data != place for _ in range(5))
    del batch
    assert place in {buffer.sample_sequence()[0].ctypes.data for _ in range(5)}


@pytest.mark.parametrize("burn_in", [0, 1, 4, 100])
def test_burn_in_shows_the_frames_before_inside_the_episode(burn_in):
    """History is what the twin has, never from another episode or overwritten, padded left by its oldest."""
    pair = Pair(40)
    pair.fill(95, ends=("terminal", "truncated", "cut"), mean=7.0, seed=6)
    steps, live = pair.twin.streams[0].steps, pair.twin.live_ids(0)
    seen = set()
    for _ in range(10):
        start, before = pair.buffer.sample_with_burn_in(64, burn_in)
        assert before.shape == (64, burn_in, *SHAPE)
        for number, history in zip(numbers(start).tolist(), numbers(before).tolist(), strict=True):
            known = [step for step in live if step <= number and steps[step].episode == steps[number].episode]
            wanted = known[:-1][-burn_in:] if burn_in else []
            padding = [known[0]] * (burn_in - len(wanted))
            assert history == padding + wanted
            seen.add(number)
    assert seen == set(live)


@pytest.mark.parametrize(
    ("batch_size", "burn_in"), [(0, 1), (1.5, 1), (True, 1), (1, -1), (1, 1.5), (1, None), (1, True)]
)
def test_burn_in_refuses_impossible_counts(batch_size, burn_in):
    """A batch size below one, a negative or fractional burn-in raises BadSetting."""
    buffer = make(5)
    buffer.add(frame(1), 0, 0.0, False)
    with pytest.raises(rv.BadSetting, match=r"(batch_size|burn_in): wanted"):
        buffer.sample_with_burn_in(batch_size, burn_in)
