"""The drop-in replay buffer has the surface its users know, and survives what they do with it."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.testing import NaiveBuffer

SHAPE = (1, 2, 2)
COUNTERS = ("idx", "full", "steps", "episodes")
ARRAYS = ("observations", "actions", "rewards", "terminals")


def frame(number: int) -> np.ndarray:
    """A frame that tells its number: low byte and high byte in the first row."""
    return np.array([[[number % 256, number // 256], [7, 7]]], np.uint8)


def numbers(frames: np.ndarray) -> np.ndarray:
    """The numbers of frames, whatever axes lead."""
    return frames[..., 0, 0, 0].astype(np.int64) + 256 * frames[..., 0, 0, 1].astype(np.int64)


def make(size: int, **settings) -> rv.IRISReplayBuffer:
    return rv.IRISReplayBuffer(size, SHAPE, 3, **{"seq_len": 3, "batch_size": 64, "seed": 0, **settings})


class Pair:
    """A drop-in buffer and the naive twin, which see the same steps; step n shows frame n."""

    def __init__(self, size: int, **settings):
        self.buffer = make(size, **settings)
        self.twin = NaiveBuffer(size)
        self.number = 0

    def add(self, end: str = "", final: bool = False) -> None:
        """Add the next step; `end` is "", "terminal" or "truncated"."""
        number = self.number
        final_obs = frame(number + 30_000) if final else None
        self.buffer.add(frame(number), number % 3, number / 4, end == "terminal", truncated=end == "truncated",
                        final_obs=final_obs)  # fmt: skip
        self.twin.add(obs=frame(number), action=np.eye(3, dtype=np.float32)[number % 3], reward=number / 4,
                      terminated=end == "terminal", truncated=end == "truncated", final_obs=final_obs)  # fmt: skip
        self.number += 1

    def cut(self) -> None:
        self.buffer.cut()
        self.twin.cut()

    def fill(self, steps: int, *, ends: tuple[str, ...] = ("terminal",), mean: float = 6.0, seed: int = 0,
             final: bool = False) -> None:  # fmt: skip
        """Add steps whose episodes have random lengths; "cut" among the ends cuts after the step."""
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            end = str(rng.choice(ends)) if rng.random() < 1 / mean else ""
            self.add(end if end != "cut" else "", final and end not in ("", "cut"))
            if end == "cut":
                self.cut()

    def check(self, *lengths: int) -> None:
        """Assert that every valid window comes, no other does, and each shows what the twin says."""
        assert len(self.buffer) == len(self.twin)
        for length in lengths:
            valid = {start for _, start in self.twin.windows(length)}
            if not valid:
                with pytest.raises(rv.NotEnoughData):
                    self.buffer.sample_sequence(length)
                continue
            seen = set()
            for _ in range(10):
                obs, actions, rewards, terminals = self.buffer.sample_sequence(length)
                for row, start in enumerate(numbers(obs[:, 0]).tolist()):
                    assert start in valid
                    if start not in seen:
                        seen.add(start)
                        window = self.twin.window(0, start, length)
                        np.testing.assert_array_equal(obs[row], window.obs)
                        np.testing.assert_array_equal(actions[row], window.action)
                        np.testing.assert_array_equal(rewards[row], window.reward)
                        np.testing.assert_array_equal(terminals[row], np.array(window.terminated))
            assert seen == valid


# --- the public surface --------------------------------------------------------------------------------


def test_the_constructor_takes_its_arguments_by_place_and_by_name():
    """The five arguments keep their order, their names and their defaults, and come back as attributes."""
    by_place = rv.IRISReplayBuffer(10, SHAPE, 3, 4, 5)
    by_name = rv.IRISReplayBuffer(size=10, obs_shape=SHAPE, action_size=3, seq_len=4, batch_size=5)
    for buffer in (by_place, by_name):
        given = (buffer.size, buffer.obs_shape, buffer.action_size, buffer.seq_len, buffer.batch_size)
        assert given == (10, SHAPE, 3, 4, 5)
        assert buffer.buffer_capacity == 10
    plain = rv.IRISReplayBuffer(10, list(SHAPE), 3)
    assert (plain.obs_shape, plain.seq_len, plain.batch_size) == (SHAPE, 20, 64)
    with pytest.raises(TypeError):
        rv.IRISReplayBuffer(10, SHAPE, 3, 4, 5, 0)


def test_a_new_buffer_is_empty():
    """Before the first step every counter is zero and the arrays have their full shapes and dtypes."""
    buffer = make(10)
    assert [getattr(buffer, name) for name in COUNTERS] == [0, False, 0, 0]
    assert len(buffer) == 0
    got = [(getattr(buffer, name).shape, getattr(buffer, name).dtype) for name in ARRAYS]
    assert got == [((10, *SHAPE), np.uint8), ((10, 3), np.float32), ((10,), np.float32), ((10,), np.float32)]
    assert all(type(getattr(buffer, name)) is np.ndarray for name in ARRAYS)


def test_the_counters_follow_the_steps():
    """idx is the next slot, full comes with the last slot, steps and episodes count for ever."""
    buffer = make(4)
    seen = []
    for number in range(9):
        buffer.add(frame(number), 0, 0.0, number % 3 == 2, truncated=number == 4)
        seen.append((buffer.idx, buffer.full, buffer.steps, buffer.episodes, len(buffer)))
    assert seen[:3] == [(1, False, 1, 0, 1), (2, False, 2, 0, 2), (3, False, 3, 1, 3)]
    assert seen[3:5] == [(0, True, 4, 1, 4), (1, True, 5, 1, 4)]
    assert seen[8] == (1, True, 9, 3, 4)
    assert [type(getattr(buffer, name)) for name in COUNTERS] == [int, bool, int, int]


def test_row_i_of_the_arrays_is_slot_i():
    """The arrays lie in ring order, and single rows, slices and index arrays read what was added."""
    buffer = make(5)
    for number in range(7):
        buffer.add(frame(number), [number, 0.5, -1], number / 2, number == 6)
    np.testing.assert_array_equal(numbers(buffer.observations), [5, 6, 2, 3, 4])
    np.testing.assert_array_equal(numbers(buffer.observations[np.array([3, 0])]), [3, 5])
    np.testing.assert_array_equal(buffer.observations[1], frame(6))
    np.testing.assert_array_equal(buffer.actions[:, 0], [5, 6, 2, 3, 4])
    np.testing.assert_array_equal(buffer.rewards, [2.5, 3.0, 1.0, 1.5, 2.0])
    np.testing.assert_array_equal(buffer.terminals, [0, 1, 0, 0, 0])
    buffer.rewards[2:] = 9.0
    assert set(np.unique(buffer.sample_sequence(1)[2])) == {2.5, 3.0, 9.0}


def test_samples_have_the_documented_shapes_and_dtypes():
    """Sequences are (B, L+1) frames with (B, L) of the rest; single steps, frames and burn-ins as said."""
    buffer = make(30, seq_len=4, batch_size=5)
    for number in range(40):
        buffer.add(frame(number), number % 3, 0.0, False)
    for length, got in (
        (4, buffer.sample_sequence()),
        (7, buffer.sample_sequence(7)),
        (2, buffer.sample_sequence(seq_len=2)),
    ):
        obs, actions, rewards, terminals = got
        assert (obs.shape, obs.dtype) == ((5, length + 1, *SHAPE), np.uint8)
        assert (actions.shape, actions.dtype) == ((5, length, 3), np.float32)
        assert (rewards.shape, rewards.dtype) == ((5, length), np.float32)
        assert (terminals.shape, terminals.dtype) == ((5, length), np.float32)
    obs, action, reward, terminal = buffer.sample_single()
    assert (obs.shape, obs.dtype, action.shape, action.dtype) == (SHAPE, np.uint8, (3,), np.float32)
    assert isinstance(reward, (float, np.floating))
    assert isinstance(terminal, (float, np.floating))
    for burn_in in (0, 3):
        start, before = buffer.sample_with_burn_in(batch_size=6, burn_in=burn_in)
        assert (start.shape, before.shape) == ((6, *SHAPE), (6, burn_in, *SHAPE))
        assert start.dtype == before.dtype == np.uint8
    frames = buffer.sample_frames(6)
    assert (frames.shape, frames.dtype) == ((6, *SHAPE), np.uint8)


def test_torch_takes_what_sample_sequence_returns():
    """torch.tensor and torch.from_numpy accept all four arrays; the tensors outlive later batches."""
    torch = pytest.importorskip("torch")
    pair = Pair(30)
    pair.fill(40)
    arrays = pair.buffer.sample_sequence()
    copies, views = [torch.tensor(array) for array in arrays], [torch.from_numpy(array) for array in arrays]
    kept = [array.copy() for array in arrays]
    del arrays
    for _ in range(5):
        pair.buffer.sample_sequence()
    for copy, view, array in zip(copies, views, kept, strict=True):
        np.testing.assert_array_equal(copy.numpy(), array)
        np.testing.assert_array_equal(view.numpy(), array)
    assert [copy.dtype for copy in copies] == [torch.uint8, torch.float32, torch.float32, torch.float32]


@pytest.mark.parametrize("steps", [0, 1, 7, 20, 21, 53])
def test_every_window_agrees_with_the_twin(steps):
    """At any fill every valid window is drawn, no other is, and each shows what was added."""
    pair = Pair(20)
    pair.fill(steps, ends=("terminal", "truncated", "cut"), seed=steps, final=True)
    pair.check(1, 2, 3, 5, 20)


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_rings_work(size):
    """A ring of one or two steps gives exactly its valid windows, at every step of three rounds."""
    pair = Pair(size)
    for end in ("", "terminal", "truncated", "terminal", "", "", "terminal"):
        pair.add(end)
        pair.check(1, size)
        assert len(numbers(pair.buffer.sample_frames(4))) == 4


def test_a_window_may_be_as_long_as_the_ring():
    """When the ring holds one ended episode, its whole length is one window."""
    pair = Pair(6)
    for _ in range(6):
        pair.add()
    pair.check(5, 6)
    pair.cut()
    pair.check(5, 6)
    assert numbers(pair.buffer.sample_sequence(6)[0][0]).tolist() == [0, 1, 2, 3, 4, 5, 5]


def resident_bytes() -> int:
    """The memory this process holds now (where the system does not say: the most it ever held)."""
    import resource  # not on every platform

    if Path("/proc/self/statm").exists():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_an_empty_buffer_commits_no_pages():
    """A buffer of two gigabytes takes less than 50 MB before it is filled, also after its first steps."""
    before = resident_bytes()
    buffer = rv.IRISReplayBuffer(170_000, (3, 64, 64), 18)
    for _ in range(100):
        buffer.add(np.ones((3, 64, 64), np.uint8), 0, 0.0, False)
    assert buffer.observations.nbytes > 2e9
    assert resident_bytes() - before < 50e6


# --- checkpoints as trainers make them -----------------------------------------------------------------


def save(buffer: rv.IRISReplayBuffer, path: Path) -> None:
    """What trainers do: the counters, and the first len rows of the four arrays."""
    count = buffer.size if buffer.full else buffer.idx
    np.savez(path, **{name: getattr(buffer, name) for name in ("size", *COUNTERS)},
             **{name: getattr(buffer, name)[:count] for name in ARRAYS})  # fmt: skip


def load(
    buffer: rv.IRISReplayBuffer, path: Path, order: tuple[str, ...] = COUNTERS, cast=lambda value: value
):
    """What trainers do: assign the rows, then set the counters one by one."""
    with np.load(path) as saved:
        assert int(saved["size"]) == buffer.size
        for name in ARRAYS:
            getattr(buffer, name)[: len(saved[name])] = saved[name]
        for name in order:
            setattr(buffer, name, cast(saved[name]))


@pytest.mark.parametrize("order", list(itertools.permutations(COUNTERS))[::8])
@pytest.mark.parametrize("steps", [0, 1, 13, 20, 40, 47])
@pytest.mark.parametrize("used", [0, 9, 33])
def test_a_restored_buffer_is_the_one_that_was_saved(tmp_path, order, steps, used):
    """Into a fresh or used buffer, wrapped or not, in any order: the same windows, then adding goes on."""
    pair = Pair(20)
    pair.fill(steps, ends=("terminal", "truncated", "cut"), seed=steps)
    save(pair.buffer, tmp_path / "checkpoint.npz")
    counters = [getattr(pair.buffer, name) for name in COUNTERS]
    other = Pair(20)
    other.fill(used, ends=("terminal", "truncated"), seed=5, final=True)
    pair.buffer = other.buffer
    load(pair.buffer, tmp_path / "checkpoint.npz", order)
    assert [getattr(pair.buffer, name) for name in COUNTERS] == counters
    pair.check(1, 3, 5)
    assert [getattr(pair.buffer, name) for name in COUNTERS] == counters
    pair.twin.cut()  # what comes next is another recording
    for more in (1, 12, 25):
        pair.fill(more, ends=("terminal", "truncated"), seed=more, final=True)
        assert (pair.buffer.steps, pair.buffer.idx) == (pair.number, pair.number % 20)
        pair.check(1, 3, 5)


@pytest.mark.parametrize("cast", [np.asarray, int, np.float64, lambda value: value[()]],
                         ids=["0-d array", "int", "float64", "NumPy scalar"])  # fmt: skip
def test_counters_may_be_set_as_they_were_loaded(tmp_path, cast):
    """0-d arrays as np.load gives them, NumPy scalars and whole floats are counters, and read as ints."""
    pair = Pair(10)
    pair.fill(25)
    save(pair.buffer, tmp_path / "checkpoint.npz")
    counters = [getattr(pair.buffer, name) for name in COUNTERS]
    pair.buffer = make(10)
    load(pair.buffer, tmp_path / "checkpoint.npz", cast=cast)
    got = [getattr(pair.buffer, name) for name in COUNTERS]
    assert got == counters
    assert [type(value) for value in got] == [int, bool, int, int]
    pair.check(1, 3)


def test_a_restored_recording_is_not_joined_to_what_is_added():
    """The environment was reset meanwhile: no window spans the place where a checkpoint was loaded."""
    pair = Pair(20)
    for _ in range(8):
        pair.add()
    pair.check(4)  # eight running steps: the last has no successor yet
    pair.buffer.idx, pair.buffer.full = 8, False
    pair.check(4)
    pair.buffer.steps, pair.buffer.episodes = 8, 0
    pair.check(4)
    pair.twin.cut()
    for _ in range(8):
        pair.add()
        pair.check(1, 4)
    assert max(length for length in range(1, 9) if pair.twin.windows(length)) == 8


def test_a_checkpoint_of_a_checkpoint_keeps_the_seams(tmp_path):
    """Truncations, cuts and restored seams survive any number of saves in `terminals`, which reads as 0."""
    pair = Pair(40)
    for round_number in range(3):
        pair.fill(4, mean=99.0)
        pair.add("truncated")
        pair.fill(4, mean=99.0)
        pair.cut()
        pair.fill(3, mean=99.0)
        save(pair.buffer, tmp_path / f"{round_number}.npz")
        pair.buffer = make(40)
        load(pair.buffer, tmp_path / f"{round_number}.npz")
        pair.check(1, 2, 3, 4, 5, 6)
        pair.twin.cut()
    assert (pair.buffer.terminals == 0.0).all()
    assert not pair.buffer.terminals.any()
    assert pair.buffer.episodes == 0


def test_the_seam_marker_never_shows():
    """Every terminal that a sample returns after a truncation or a cut is a plain 0.0, not -0.0."""
    pair = Pair(30)
    pair.fill(60, ends=("truncated", "cut"), mean=3.0)
    assert np.signbit(pair.buffer.terminals).any(), "the case must hold markers"
    for length in (1, 2, 3):
        assert not np.signbit(pair.buffer.sample_sequence(length)[3]).any()
    assert not any(np.signbit(pair.buffer.sample_single()[3]) for _ in range(100))


def test_a_checkpoint_of_the_original_classes_is_read():
    """Rows whose terminals are plain zeros and ones, saved elsewhere, give the episodes they say."""
    buffer = make(6)
    buffer.observations[:] = [frame(number) for number in (6, 7, 2, 3, 4, 5)]
    buffer.actions[:] = 0.5
    buffer.rewards[:] = [6, 7, 2, 3, 4, 5]
    buffer.terminals[:] = [1, 0, 0, 1, 0, 0]
    buffer.full, buffer.idx, buffer.steps, buffer.episodes = True, 2, 8, 2
    starts = {tuple(row) for _ in range(5) for row in numbers(buffer.sample_sequence(2)[0]).tolist()}
    assert starts == {(2, 3, 3), (4, 5, 6), (5, 6, 6)}
    assert len(buffer) == 6


def test_setting_the_head_to_zero_empties_the_buffer():
    """idx = 0 with full = False forgets all steps, and the buffer takes new ones."""
    pair = Pair(10)
    pair.fill(25, final=True)
    pair.buffer.idx, pair.buffer.full = 0, False
    assert len(pair.buffer) == 0
    with pytest.raises(rv.NotEnoughData):
        pair.buffer.sample_sequence(1)
    assert (pair.buffer.idx, pair.buffer.full, pair.buffer.steps) == (0, False, 25)
    fresh = Pair(10)
    fresh.buffer = pair.buffer
    fresh.fill(14, final=True)
    fresh.check(1, 3)
    assert pair.buffer.steps == 39


def test_final_observations_of_overwritten_episodes_are_given_back():
    """Restoring over a used buffer again and again does not make its memory grow."""
    pair = Pair(8)
    sizes = []
    for _ in range(40):
        for _ in range(8):
            pair.add("terminal", final=True)
        pair.buffer.idx, pair.buffer.full = 0, False
        pair.buffer.cut()
        sizes.append(pair.buffer._buffer.nbytes)
    assert sizes[-1] == sizes[0]


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("value", [-1, 1.5, np.nan, np.inf, "1", None, 2**70, [1, 2], np.array([1]), 1j],
                         ids=repr)  # fmt: skip
def test_a_counter_that_is_none_is_refused_when_it_is_set(name, value):
    """What is no whole number in range raises BadSetting at once, and the buffer stays as it was."""
    pair = Pair(10)
    pair.fill(13)
    before = [getattr(pair.buffer, counter) for counter in COUNTERS]
    with pytest.raises(rv.BadSetting, match=f"{name}: wanted an integer in 0"):
        setattr(pair.buffer, name, value)
    assert [getattr(pair.buffer, counter) for counter in COUNTERS] == before
    pair.check(1, 3)


def test_an_idx_beyond_the_ring_is_refused():
    """The counters of a larger buffer do not fit, and idx says so."""
    buffer = make(10)
    buffer.idx = 9
    with pytest.raises(rv.BadSetting, match=r"0\.\.9, got 10"):
        buffer.idx = 10


@pytest.mark.parametrize(("name", "value"), [("terminals", 0.5), ("terminals", np.nan), ("terminals", -1.0),
                                             ("rewards", np.nan), ("rewards", -np.inf)])  # fmt: skip
def test_restored_rows_with_impossible_numbers_are_refused(name, value):
    """A checkpoint whose terminals are not 0 or 1, or whose rewards are not finite, trains nobody."""
    pair = Pair(10)
    pair.fill(13)
    kept = getattr(pair.buffer, name)[4]
    getattr(pair.buffer, name)[4] = value
    pair.buffer.steps = pair.buffer.steps
    for call in (pair.buffer.sample_sequence, pair.buffer.sample_single, pair.buffer.cut):
        with pytest.raises(rv.BadSetting, match="rows: wanted terminals 0 or 1 and finite rewards"):
            call()
    getattr(pair.buffer, name)[4] = kept
    pair.check(1, 3)


@pytest.mark.parametrize("name", ["size", "obs_shape", "action_size", *ARRAYS])
def test_what_the_ring_is_made_of_cannot_be_replaced(name):
    """Another array in the place of one of the four would be sampled by half the methods: refused."""
    buffer = make(300)
    value = getattr(buffer, name)
    with pytest.raises(rv.BadSetting, match=f"{name}: wanted it kept"):
        setattr(buffer, name, value.copy() if name in ARRAYS else 5)
    assert getattr(buffer, name) is value
    buffer.rewards += 1.0
    assert buffer.rewards[0] == 1.0
