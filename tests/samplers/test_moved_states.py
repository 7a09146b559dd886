"""What samplers saved follows its steps, episodes and streams to where they lie in another buffer."""

import numpy as np
import pytest

from reverie.samplers import Move, moved


def a_move(rows=True, streams=2):
    """Three live steps from slots 0, 1, 4 to 5, 3, 2 of six; episodes from rows 0, 3, 7 to 2, 1, 0 of four."""
    return Move(
        slots=np.array([[0, 1, 4], [5, 3, 2]]),
        rows=np.array([[0, 3, 7], [2, 1, 0]]) if rows else None,
        size=6,
        table=4,
        streams=streams,
    )


def test_steps_have_their_values_where_they_lie_now():
    """Slots without a live step have none; the dtype stays."""
    values = np.array([10, 11, 12, 13, 14, 15], np.int16)
    found = a_move().by_slot(values)
    assert (found.tolist(), found.dtype) == ([0, 0, 14, 11, 0, 10], np.int16)


def test_episodes_have_their_values_in_their_rows_of_now():
    """A row that the saved table did not have yet says nothing; where rows are the same, nothing moves."""
    values = np.array([20.0, 21, 22, 23])
    assert a_move().by_row(values).tolist() == [0, 23, 20, 0]
    assert a_move().by_row(np.arange(8.0)).tolist() == [7, 3, 0, 0]
    assert a_move(rows=False).by_row(values) is values


@pytest.mark.parametrize(
    ("streams", "wanted"),
    [(1, [[1], [4]]), (3, [[1, 2, 3], [4, 5, 6]]), (5, [[1, 2, 3, 0, 0], [4, 5, 6, 0, 0]])],
)
def test_streams_are_left_out_or_begin_at_zero(streams, wanted):
    found = a_move(streams=streams).by_stream(np.array([[1, 2, 3], [4, 5, 6]], np.int32))
    assert (found.tolist(), found.dtype) == (wanted, np.int32)


def test_each_kind_of_state_is_moved_wherever_it_stands():
    """Weights of steps and of episodes, visits of both, and cursors; all else stays as it is."""
    steps = {
        "weights": np.arange(6.0),
        "barred": np.arange(6) == 1,
        "seen": np.array([4]),
        "kind": ["inside", 3],
    }
    episodes = {"weights": np.arange(4.0), "begun": np.array([9])}
    state = {
        "parts": [
            {"highest": 2.0, "steps": steps},
            {"visits": np.arange(6), "steps": steps, "episodes": {}},
            {"visits": np.arange(4), "steps": {}, "episodes": episodes},
            {"cursor": np.array([[7], [1]]), "turn": 1, "fallback": {"of": "somebody's own"}},
            {"cursor": None, "turn": 0, "fallback": {}},
            {},
        ]
    }
    one, by_step, by_episode, fresh, unused, nothing = moved(state, a_move())["parts"]
    for found in (one["steps"], by_step["steps"]):
        assert found["weights"].tolist() == [0, 0, 4, 1, 0, 0]
        assert found["barred"].tolist() == [False, False, False, True, False, False]
        assert found["seen"].tolist() == [4, 0]
        assert found["kind"] == ["inside", 3]
    assert one["highest"] == 2.0
    assert by_step["visits"].tolist() == [0, 0, 4, 1, 0, 0]
    assert by_step["episodes"] == by_episode["steps"] == nothing == {}
    assert by_episode["visits"].tolist() == [0, 3, 0, 0]
    assert by_episode["episodes"]["weights"].tolist() == [0, 3, 0, 0]
    assert by_episode["episodes"]["begun"].tolist() == [9, 0]
    assert fresh["cursor"].tolist() == [[7, 0], [1, 0]]
    assert (fresh["turn"], fresh["fallback"]) == (1, {"of": "somebody's own"})
    assert unused == {"cursor": None, "turn": 0, "fallback": {}}
    own = {"cursor": np.array([3]), "mine": [1, (2, 3)]}
    assert moved(own, a_move()) == own
