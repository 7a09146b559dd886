"""Windows as addresses, by hand: positions with a stride, what is real of them, and rows with their marks."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import Anchors, CrossWindows, Drawn, Windows
from support.buffers import scalar_spec


def ended_episodes(*lengths):
    """Return the index of a buffer of one stream with episodes of these lengths."""
    buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=0)
    for length in lengths:
        for step in range(length):
            buffer.add(obs=0, action=0, reward=0.0, terminated=step == length - 1, truncated=False)
    return buffer.engine.index


def windows_of(boundary, length, ids, burn_in=0, stride=1, offset=None, lengths=(4, 9)):
    index = ended_episodes(*lengths)
    ids = np.array(ids)
    drawn = Drawn(index.episodes_at(0, ids), ids, None, offset)
    anchors = Anchors(index, boundary, length, None, stride)
    return anchors.windows(drawn, burn_in, np.random.default_rng(0))


def numbers(windows):
    return [getattr(windows, name).tolist() for name in ("stream", "anchor", "start", "first", "stop")]


def test_anchors_show_every_step_unless_they_are_told():
    index = ended_episodes(4)
    anchors = Anchors(index, "inside", 3)
    assert (anchors.stride, anchors.length, anchors.choice) == (1, 3, None)
    found = anchors.windows(
        Drawn(index.episodes_at(0, np.array([1])), np.array([1])), 0, np.random.default_rng(0)
    )
    assert (found.length, found.offsets().tolist()) == (3, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("boundary", "length", "burn_in", "wanted", "whole"),
    [
        # Of episodes 0..3 and 4..12; anchors 5 and 11, but for "inside" 5 and 10.
        ("inside", 3, 0, [[0, 0], [5, 10], [5, 10], [5, 10], [8, 13]], True),
        ("inside", 3, 2, [[0, 0], [5, 10], [3, 8], [4, 8], [8, 13]], False),
        ("pad_right", 3, 0, [[0, 0], [5, 11], [5, 11], [5, 11], [8, 13]], False),
        ("pad_right", 3, 1, [[0, 0], [5, 11], [4, 10], [4, 10], [8, 13]], False),
        ("pad_left", 3, 0, [[0, 0], [5, 11], [3, 9], [4, 9], [6, 12]], False),
        ("pad_left", 3, 2, [[0, 0], [5, 11], [1, 7], [4, 7], [6, 12]], False),
    ],
)
def test_where_windows_lie(boundary, length, burn_in, wanted, whole):
    """The window starts with its context; only steps of the anchor's episode are real."""
    windows = windows_of(boundary, length, [5, 10] if boundary == "inside" else [5, 11], burn_in)
    assert numbers(windows) == wanted
    assert (windows.length, windows.burn_in, windows.whole) == (length + burn_in, burn_in, whole)
    real = [stop - start for start, stop in zip(wanted[2], wanted[4], strict=True)]
    assert windows.behind().tolist() == real
    assert windows.behind(np.array([1])).tolist() == real[1:]


def test_windows_are_whole_where_none_holds_padding():
    """All of them, and their context."""
    for ids, burn_in, whole in (([5, 9], 0, True), ([5, 9], 1, True), ([4, 9], 1, False), ([5, 10], 0, True), ([5, 11], 0, False)):  # fmt: skip
        assert windows_of("pad_right", 3, ids, burn_in).whole is whole


def test_where_an_anchor_at_random_stands():
    """As the sampler says; else at each position alike, with a stride at each that is shown."""
    windows = windows_of("pad_both", 4, [6, 6, 6, 6], offset=np.arange(4))
    assert numbers(windows)[2:] == [[6, 5, 4, 3], [6, 5, 4, 4], [10, 9, 8, 7]]
    starts = windows_of("pad_both", 5, [8] * 600, stride=2).start
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [4, 6, 8]
    assert counts.min() > 150


@pytest.mark.parametrize(
    ("stride", "length", "behind"), [(2, 3, [3, 2, 1]), (4, 2, [2, 1, 1]), (1, 5, [5, 4, 1])]
)
def test_positions_that_are_shown(stride, length, behind):
    """A window of five steps from 4, 9 and 12: each `stride`-th one, and where the first padding stands."""
    windows = windows_of("pad_right", 5, [4, 9, 12], stride=stride)
    assert (windows.length, windows.stride) == (length, stride)
    assert windows.offsets().tolist() == [stride * position for position in range(length + 1)]
    assert windows.behind().tolist() == behind
    with_context = windows_of("pad_right", 5, [4, 9, 12], burn_in=2, stride=stride)
    assert (with_context.burn_in, with_context.length) == (2, length + 2)
    assert with_context.start.tolist() == [4 - 2 * stride, 9 - 2 * stride, 12 - 2 * stride]


def test_whole_windows_with_a_stride():
    windows = windows_of("inside", 5, [4, 8], stride=2)
    assert (windows.length, windows.stride, windows.whole) == (3, 2, True)
    assert numbers(windows)[2:] == [[4, 8], [4, 8], [9, 13]]
    assert windows.strided(1) is windows


def test_rows_by_hand():
    """Two episodes of 2 and 3 steps: rows 0 1 closing, 2 3 4 closing; context before the beginning is padding."""
    windows = windows_of("cross", 5, [0, 1], burn_in=1, lengths=(2, 3))
    assert isinstance(windows, CrossWindows)
    assert windows.id.tolist() == [[-1, 0, 1, 2, 2, 3], [0, 1, 2, 2, 3, 4]]
    assert windows.closing.tolist() == [[False, False, False, True, False, False], [False, False, True, False, False, False]]  # fmt: skip
    assert windows.mask.tolist() == [[False, True, True, True, True, True], [True] * 6]
    assert (windows.burn_in, windows.anchor.tolist(), windows.stream.tolist()) == (1, [0, 1], [0, 0])
    shown = windows_of("cross", 5, [0, 1], burn_in=1, stride=2, lengths=(2, 3))
    assert shown.id.tolist() == [[-2, 0, 2, 3], [-1, 1, 2, 4]]
    assert shown.burn_in == 1
    opens, closes = shown.marks
    assert opens.tolist() == [[False, True, False, True], [False, True, True, False]]
    assert closes.tolist() == [[False, False, True, False], [False, True, False, False]]


def test_drawn_anchors_have_no_weights_unless_told():
    drawn = Drawn(np.array([1]), np.array([2]))
    assert (drawn.weight, drawn.offset) == (None, None)
    windows = Windows(2, 0, *(np.array([0]),) * 6, whole=True)
    assert windows.stride == 1
