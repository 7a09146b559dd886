"""What anchors say where there is none, and the counts in these words, by hand."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import BOUNDARIES, Anchors, Choice, EpisodeIndex, anchors_of
from support.buffers import scalar_spec


def an_index(*lengths, capacity=20, running=0):
    """Return the index of a buffer of one stream with episodes of these lengths, and one that runs."""
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, seed=0)
    for length in lengths:
        for step in range(length):
            buffer.add(obs=0, action=0, reward=0.0, terminated=step == length - 1, truncated=False)
    for _ in range(running):
        buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False)
    return buffer.engine.index


def test_the_error_counts_what_there_is():
    """Live steps, and how many of the longest episode have a known successor: of a running one all but the newest."""
    for index, live, longest in (
        (an_index(3, 5), 8, 5),
        (an_index(3, running=6), 9, 5),
        (an_index(30), 20, 20),
    ):
        with pytest.raises(rv.NotEnoughData) as raised:
            Anchors(index, "inside", 21).require()
        assert str(raised.value) == (
            f"wanted a window of 21 steps with boundary='inside', got {live} live steps whose longest episode has "
            f"{longest} with a known successor; add more steps, or ask for a shorter length"
        )
        assert Anchors(index, "inside", longest).require() == 1


@pytest.mark.parametrize(("length", "stride", "words"), [
    (1, 1, "a window of 1 step with boundary"), (9, 1, "a window of 9 steps with boundary"),
    (9, 2, "a window of 5 steps with stride=2, which spans 9, with boundary"),
    (9, 8, "a window of 2 steps with stride=8, which spans 9, with boundary"),
])  # fmt: skip
def test_the_error_names_the_window(length, stride, words):
    """The steps that are shown, and those that they span."""
    empty = EpisodeIndex(1, 10)
    with pytest.raises(rv.NotEnoughData, match=words):
        anchors_of(empty, "inside", length, stride)
    assert anchors_of(an_index(9), "inside", length, stride).stride == stride


def test_a_window_longer_than_a_stream_can_never_fit():
    """What a stream keeps is the most, unless the boundary pads."""
    index = an_index(10, capacity=10)
    assert anchors_of(index, "inside", 10).count() == 1
    with pytest.raises(rv.BadSetting, match=r"at most the 10 steps that a stream keeps, got 11; make"):
        anchors_of(index, "inside", 11)
    with pytest.raises(rv.BadSetting, match=r"got 13 with stride=3; make"):
        anchors_of(index, "inside", 13, 3)
    for boundary in set(BOUNDARIES) - {"inside"}:
        assert anchors_of(index, boundary, 11).length == 11
    with pytest.raises(rv.BadSetting, match="boundary: wanted one of"):
        anchors_of(index, "outside", 1)


def test_several_streams_are_empty_only_where_all_are():
    """One step in any of three streams is something to draw from."""
    for stream in range(3):
        index = EpisodeIndex(3, 4)
        with pytest.raises(rv.NotEnoughData, match="got 0 live steps"):
            anchors_of(index, "pad_right", 1)
        slot, _ = index.make_room(stream)
        index.commit(stream, slot, 0.0, 0, -1)
        assert anchors_of(index, "pad_right", 1).count() == 1
        index.evict(stream, 1)
        assert index.is_empty()


def test_the_error_says_how_many_episodes_a_condition_leaves():
    index = an_index(2, 3, 4)
    mask = np.zeros(len(index.start), np.bool_)
    mask[index.live_episodes()[:2]] = True
    anchors = Anchors(index, "inside", 4, Choice(mask))
    assert (anchors.count(), anchors.count_episodes()) == (0, 0)
    with pytest.raises(rv.NotEnoughData, match=r"got none in the 2 of 3 live episodes that discard\(\) and"):
        anchors.require()
    assert isinstance(anchors.not_enough(), rv.NotEnoughData)
    assert not isinstance(anchors.not_enough(), rv.NoWeight)


def test_the_error_of_weights_counts_the_windows():
    error = Anchors(an_index(2, 5), "inside", 2).not_enough()
    assert isinstance(error, rv.NoWeight)
    assert "wanted a window of 2 steps with boundary='inside' and a weight above 0, got 5 windows" in str(
        error
    )
    assert "got 1 window whose" in str(Anchors(an_index(2), "inside", 2).not_enough())


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("chosen", [False, True])
def test_episodes_with_an_anchor_are_counted(boundary, chosen):
    """Of episodes of 2, 5 and 4 steps and a running one of 3, by the rule's own bounds."""
    index = an_index(2, 5, 4, running=3)
    choice = Choice(np.ones(len(index.start), np.bool_)) if chosen else None
    for length, inside, cross in ((1, 4, 4), (2, 4, 4), (3, 2, 4), (4, 2, 3), (5, 1, 3), (8, 0, 3), (9, 0, 2), (17, 0, 1), (18, 0, 0)):  # fmt: skip
        anchors = Anchors(index, boundary, length, choice)
        wanted = inside if boundary == "inside" else cross if boundary == "cross" else 4
        assert anchors.count_episodes() == wanted, length
        assert len(anchors.candidates().episodes) == wanted
        assert anchors.candidates().total == anchors.count()


@pytest.mark.parametrize("streams", [1, 2])
def test_the_first_valid_ones_are_found_at_once_or_not_at_all(streams):
    """As many as are wanted, in the order given; None where there are fewer, or where it would not be quick."""
    index = EpisodeIndex(streams, 10)
    last = streams - 1
    for step in range(8):
        slot, _ = index.make_room(last)
        index.commit(last, slot, 0.0, step == 4, -1)  # episodes of five steps and of three, which runs
    stream = np.full(8, last) if streams > 1 else 0
    ids = np.array([7, 4, 0, 5, 2, 3, 6, 1])
    anchors = Anchors(index, "inside", 2)
    assert anchors.accept(index.episodes_at(stream, ids), ids).tolist() == [False, False, True, True, True, True, False, True]  # fmt: skip
    if anchors.first_valid(stream, ids, 1) is None:  # without the kernel in C
        return
    for count in (1, 3, 5):
        episodes, found = anchors.first_valid(stream, ids, count)
        assert found.tolist() == [0, 5, 2, 3, 1][:count]
        np.testing.assert_array_equal(
            episodes, index.episodes_at(stream[:count] if streams > 1 else 0, found)
        )
    assert anchors.first_valid(stream, ids, 6) is None
    for other in (Anchors(index, "pad_right", 2), Anchors(index, "inside", 2, Choice(np.ones(64, np.bool_)))):
        assert other.first_valid(stream, ids, 1) is None
