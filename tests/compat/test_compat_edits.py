"""Ends that are written into `terminals` by hand, or taken out, without setting a counter."""

import numpy as np
import pytest
from test_compat import Pair, frame, make, numbers

import reverie as rv


def recorded(steps: int, ends: set[int], size: int = 20, **settings) -> rv.IRISReplayBuffer:
    """Step n shows frame n; those in `ends` are terminal and show frame n + 500 afterwards."""
    buffer = make(size, batch_size=128, **settings)
    for number in range(steps):
        end = number in ends
        buffer.add(frame(number), 0, 0.0, end, final_obs=frame(number + 500) if end else None)
    return buffer


def windows(buffer: rv.IRISReplayBuffer, length: int, batches: int = 6) -> set[tuple[int, ...]]:
    drawn = [numbers(buffer.sample_sequence(length)[0]) for _ in range(batches)]
    return {tuple(row) for batch in drawn for row in batch.tolist()}


def right(steps: range, ends: set[int], length: int, finals: set[int]) -> set[tuple[int, ...]]:
    """The windows there are: from `steps`, none with an end before its last step; the newest step runs."""
    found = set()
    for first in range(steps[0], steps[-1] - length + 2):
        ids = [*range(first, first + length)]
        if ends & set(ids[:-1]) or (ids[-1] == steps[-1] and ids[-1] not in ends):
            continue
        after = ids[-1] + 1
        if ids[-1] in ends:
            after = ids[-1] + 500 if ids[-1] in finals else ids[-1]
        found.add((*ids, after))
    return found


@pytest.mark.parametrize("steps", [14, 33])
@pytest.mark.parametrize("back", range(1, 14))
def test_an_end_written_by_hand_is_seen(steps, back):
    """Wherever it is written, no sequence runs across it, some end there, and the others are as they were."""
    ends = {steps - 11, steps - 5}
    buffer, step = recorded(steps, ends), steps - back
    buffer.terminals[step % 20] = 1
    live = range(max(steps - 20, 0), steps)
    for _ in range(3):
        drawn = buffer.sample_sequence(3)
        assert {tuple(row) for row in numbers(drawn[0]).tolist()} <= right(live, ends | {step}, 3, ends)
        assert not drawn[3][:, :-1].any()
    assert windows(buffer, 3, 20) == right(live, ends | {step}, 3, ends)
    buffer.add(frame(steps), 0, 0.0, False)
    buffer.add(frame(steps + 1), 0, 0.0, False)
    live = range(max(steps - 18, 0), steps + 2)
    assert windows(buffer, 2) == right(live, ends | {step}, 2, ends)


def test_an_end_taken_out_by_hand_is_seen():
    """Once a sequence ends there, it is read anew: sequences run on, and the final observation is gone."""
    buffer = recorded(14, {4, 9})
    buffer.terminals[4] = 0
    assert windows(buffer, 2, 20) == right(range(14), {9}, 2, {9})
    assert windows(buffer, 7) == right(range(14), {9}, 7, {9})


def test_too_little_data_is_told_after_another_look():
    """With every end taken out there is a long episode; with the rows as they were there is none."""
    buffer = recorded(14, {3, 6, 9, 12})
    with pytest.raises(rv.NotEnoughData, match="longest episode has 4"):
        buffer.sample_sequence(5)
    buffer.terminals[:13] = 0
    assert windows(buffer, 5, 12) == right(range(14), set(), 5, set())


def test_an_end_written_by_hand_is_seen_by_padded_sequences():
    """What lies behind it is padding."""
    buffer = recorded(14, {9})
    buffer.terminals[3] = 1
    obs, _, _, terminals, mask = buffer.sample_padded(6)
    for row, kept in zip(numbers(obs).tolist(), mask.sum(1).astype(int).tolist(), strict=True):
        assert row[0] > 3 or row[0] + kept == 4
    assert not terminals[:, :-1][mask[:, 1:] == 1.0].any()


def test_an_end_written_by_hand_is_seen_by_burn_in():
    """No history shows a frame from before it."""
    buffer = recorded(14, set())
    buffer.terminals[5] = 1
    for start, history in zip(*map(numbers, buffer.sample_with_burn_in(300, 4)), strict=True):
        assert (history > 5).all() or start <= 5
    assert buffer.sample_sequence(1)[0].shape[1] == 2


@pytest.mark.parametrize("value", [0.5, np.nan, -1.0, 2.0])
def test_what_is_no_end_is_refused_when_it_is_met(value):
    """A terminal that is neither 0 nor 1 raises BadSetting as soon as a sequence holds it."""
    buffer = recorded(9, set())
    buffer.terminals[4] = value
    with pytest.raises(rv.BadSetting, match="rows: wanted terminals 0 or 1"):
        buffer.sample_sequence(5)


def test_other_final_observations_stay():
    """Another look at the ring forgets the final observations of no episode whose end is where it was."""
    buffer = recorded(40, {23, 27, 35})
    before = buffer._buffer.nbytes
    for step in (30, 32):
        buffer.terminals[step % 20] = 1
        assert windows(buffer, 1, 12) == right(
            range(20, 40), {23, 27, 35, *range(30, step + 1, 2)}, 1, {23, 27, 35}
        )
    for number in range(40):
        buffer.add(frame(number), 0, 0.0, True, final_obs=frame(number))
        buffer.terminals[buffer.idx - 1] = 0
        buffer.sample_sequence(1)
        buffer.cut()
    assert buffer._buffer.nbytes == before, "final observations of ends that were taken out go"


def test_looking_changes_no_draw():
    """A buffer whose terminals nobody wrote to draws the batches that its engine draws."""
    buffer, twin = recorded(40, {23, 27}), recorded(40, {23, 27})
    for length in (1, 2, 3):
        batch = twin._buffer.sample(128, length)
        np.testing.assert_array_equal(buffer.sample_sequence(length)[0], batch.obs)


def test_an_end_written_by_hand_goes_into_the_file(tmp_path):
    """Once it was seen, a resumed buffer has it, too."""
    buffer = recorded(14, {9}, path=tmp_path / "kept.replay")
    buffer.terminals[3] = 1
    assert windows(buffer, 2, 20) == right(range(14), {3, 9}, 2, {9})
    buffer.cut()
    buffer.close()
    with rv.IRISReplayBuffer.open(tmp_path / "kept.replay") as resumed:
        assert resumed.terminals[:14].nonzero()[0].tolist() == [3, 9]
        assert {row for row in windows(resumed, 2, 20) if row[1] < 13} == right(range(14), {3, 9}, 2, {9})


def test_the_steps_go_on_after_an_end_was_written():
    """Counters stay as they were, and what is added joins the running episode."""
    pair = Pair(20)
    for _ in range(6):
        pair.add()
    pair.buffer.terminals[2] = 1
    assert pair.buffer.sample_sequence(3)[0].shape[1] == 4
    assert (pair.buffer.steps, pair.buffer.idx, pair.buffer.full, len(pair.buffer)) == (6, 6, False, 6)
    for _ in range(3):
        pair.add()
    assert (3, 4, 5, 6, 7, 8) in windows(pair.buffer, 5)


@pytest.mark.parametrize("laps", [0, 1, 3])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("size", "idx"), [(5, 0), (5, 3), (32, 1), (40, 8), (40, 36), (64, 5)])
def test_whatever_counters_are_set_the_files_open_again(size, idx, full, laps, tmp_path):
    """Steps of many laps in a ring that is not full, as a trainer's checkpoint may have them: file and copy are whole."""
    buffer = recorded(2 * size, {3, 7}, size, path=tmp_path / "a.replay")
    buffer.idx, buffer.full, buffer.steps = idx, full, laps * size + idx
    for number in range(3):
        buffer.add(frame(100 + number), 0, 0.0, False)
    slots = (buffer.idx - np.arange(len(buffer), 0, -1)) % size
    wanted = numbers(buffer.observations[slots]).tolist()
    counters = [buffer.idx, buffer.full, buffer.steps, buffer.episodes]
    buffer.save_as(tmp_path / "copy.replay")
    buffer.close()
    for name in ("a", "copy"):
        with rv.IRISReplayBuffer.open(tmp_path / f"{name}.replay") as again:
            assert [again.idx, again.full, again.steps, again.episodes] == counters
            assert numbers(again.observations[slots]).tolist() == wanted
