"""Episodes that are shorter than a sequence: padded sequences of the drop-in buffer, beside the twin."""

import numpy as np
import pytest
from scipy import stats
from test_compat import SHAPE, Pair, frame, make, numbers

import reverie as rv


def wanted(pair: Pair, length: int) -> dict[int, tuple[list, list, list, list, list]]:
    """First step -> frames, actions, rewards, terminals and mask of its sequence, from the twin's own lists."""
    record, live = pair.twin.streams[0], pair.twin.live_ids(0)
    found = {}
    for first in live:
        episode = record.steps[first].episode
        ids = [
            step for step in live if first <= step < first + length and record.steps[step].episode == episode
        ]
        running = not record.episodes[episode].ended
        ids = [step for step in ids if not (running and step == live[-1])]
        if not ids:
            continue
        last = pair.twin.window(0, first, len(ids))
        fill = length - len(ids)
        found[first] = (
            [*numbers(np.asarray(last.obs)).tolist(), *[0] * fill],
            [*np.asarray(last.action).tolist(), *[[0.0] * 3] * fill],
            [*np.asarray(last.reward).tolist(), *[0.0] * fill],
            [*np.asarray(last.terminated).astype(float).tolist(), *[0.0] * fill],
            [*[1.0] * len(ids), *[0.0] * fill],
        )
    return found


@pytest.mark.parametrize("steps", [2, 7, 20, 33])
@pytest.mark.parametrize("length", [1, 3, 6, 20])
def test_every_padded_sequence_agrees_with_the_twin(steps, length):
    """From every settled step comes what the twin has, zeros behind, and the mask tells; no other start comes."""
    pair = Pair(20, batch_size=200)
    pair.fill(steps, ends=("terminal", "truncated", "cut"), mean=4.0, seed=steps, final=True)
    pair.add()
    right, seen = wanted(pair, length), set()
    for _ in range(4):
        obs, actions, rewards, terminals, mask = pair.buffer.sample_padded(length)
        assert (obs.shape, mask.shape) == ((200, length + 1, *SHAPE), (200, length))
        assert [array.dtype for array in (obs, actions, rewards, terminals, mask)] == [
            np.uint8, np.float32, np.float32, np.float32, np.float32]  # fmt: skip
        assert not obs[:, 1:][mask == 0.0].any()
        for row, first in enumerate(numbers(obs[:, 0]).tolist()):
            seen.add(first)
            got = (
                numbers(obs[row]).tolist(),
                *(array[row].tolist() for array in (actions, rewards, terminals, mask)),
            )
            assert got == right[first]
    assert seen == set(right)


def test_every_settled_step_is_as_likely_to_be_the_first():
    """Steps of long and short episodes alike: a chi-square test over all of them."""
    pair = Pair(40, batch_size=400)
    pair.fill(70, ends=("terminal", "truncated"), mean=4.0, seed=1)
    starts = sorted(wanted(pair, 8))
    drawn = np.concatenate([numbers(pair.buffer.sample_padded(8)[0][:, 0]) for _ in range(20)])
    counts = [int((drawn == start).sum()) for start in starts]
    assert sum(counts) == len(drawn)
    assert stats.chisquare(counts).pvalue > 0.001


def test_it_draws_where_no_episode_is_long_enough():
    """What sample_sequence refuses comes padded, and its error names the way out."""
    buffer = make(30, seq_len=5, batch_size=4)
    for number in range(12):
        buffer.add(frame(number), 0, 0.0, number % 4 == 3)
    with pytest.raises(rv.NotEnoughData, match=r"wanted a window of 5 steps.*call sample_padded"):
        buffer.sample_sequence()
    mask = buffer.sample_padded()[4]
    assert mask.shape == (4, 5)
    assert not mask[:, 4].any()
    assert mask[:, 0].all()


def test_too_little_for_any_sequence_is_an_error():
    """An empty buffer, and one whose only step has no known next frame, raise NotEnoughData."""
    buffer = make(30)
    for _ in range(2):
        with pytest.raises(rv.NotEnoughData, match="wanted"):
            buffer.sample_padded()
        if len(buffer) == 0:
            buffer.add(frame(1), 0, 0.0, False)
    buffer.add(frame(2), 0, 0.0, False)
    obs, *_, mask = buffer.sample_padded(3)
    assert numbers(obs[0]).tolist() == [1, 2, 0, 0]
    assert mask[0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("seq_len", [0, -1, 11, 2.5, True, "4"])
def test_an_impossible_length_is_refused(seq_len):
    """As by sample_sequence: above the ring, below one, or not whole."""
    buffer = make(10)
    buffer.add(frame(1), 0, 0.0, True)
    with pytest.raises(rv.BadSetting, match="seq_len: wanted"):
        buffer.sample_padded(seq_len)


def test_equal_seeds_give_equal_padded_sequences(tmp_path):
    """Also after the file was closed and opened again, whichever way of drawing comes first."""
    pairs = [Pair(30, path=tmp_path / "kept.replay"), Pair(30)]
    for pair in pairs:
        pair.fill(50, mean=4.0)
        pair.cut()
        pair.buffer.sample_padded()
        pair.buffer.sample_sequence(1)
    pairs[0].buffer.close()
    with rv.IRISReplayBuffer.open(tmp_path / "kept.replay") as resumed:
        for name in ("sample_sequence", "sample_padded"):
            for ours, theirs in zip(
                getattr(resumed, name)(1), getattr(pairs[1].buffer, name)(1), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
