"""An index that takes stretches of steps is the one that takes them one by one; discarded episodes have no anchor."""

import numpy as np
import pytest

import reverie as rv
from reverie.index import (
    CUT,
    RUNNING,
    TERMINATED,
    Candidates,
    EpisodeIndex,
    Part,
    Stretch,
    anchors_of,
    ended_at,
    kept_steps,
    reserve_rows,
    stretches_of,
    total_at,
)
from support.buffers import scalar_spec

PER_STREAM = [
    "head",
    "tail",
    "begun",
    "dropped",
    "open_episode",
    "front_episode",
    "front_stop",
    "episode_of_slot",
]
PER_EPISODE = ["start", "stop", "settled", "stream", "ordinal", "order", "ended", "total"]


def assert_same(one, other, when: object) -> None:
    """Two indexes agree in all that is live, down to the rows that will be taken next."""
    for name in PER_STREAM:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), f"{name}, {when}")
    live = one.live_episodes()
    np.testing.assert_array_equal(live, other.live_episodes())
    for name in PER_EPISODE:
        np.testing.assert_array_equal(getattr(one, name)[live], getattr(other, name)[live], f"{name}, {when}")
    assert (one.free, one.next_order, len(one.start)) == (other.free, other.next_order, len(other.start)), (
        when
    )


def some_steps(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> dict:
    """Steps whose episodes have a geometric length; no sum of their rewards is exact in float32."""
    number = np.arange(np.prod(shape)).reshape(shape)
    return {"obs": number, "action": number, "reward": rng.random(shape, np.float32),
            "terminated": rng.random(shape) < 1 / mean, "truncated": np.zeros(shape, bool)}  # fmt: skip


@pytest.mark.parametrize("sewn", [False, True], ids=["", "sewn"])
@pytest.mark.parametrize(("capacity", "mean"), [(1, 2.0), (7, 2.0), (80, 1.0), (150, 1.3), (150, 40.0)])
def test_a_stretch_is_its_steps(capacity, mean, sewn):
    """Whatever its length: shorter than an episode, longer than the ring, with more episodes than the table has rows."""
    rng = np.random.default_rng(3)
    whole, single = (rv.ReplayBuffer(scalar_spec(), 2 * capacity, streams=2, seed=0) for _ in range(2))
    for count in (1, 3, 5, 1, 90, 2, capacity, 2 * capacity + 3, 4):
        stream, given = int(rng.integers(2)), some_steps(rng, (count,), mean)
        if sewn:
            for buffer in (whole, single):
                buffer.engine.index.seams = {stream} & set(
                    np.flatnonzero(buffer.engine.index.open_episode >= 0).tolist()
                )
        whole.extend(**given, stream=stream)
        for step in range(count):
            single.add(**{name: values[step] for name, values in given.items()}, stream=stream)
        assert_same(whole.engine.index, single.engine.index, (count, stream))


@pytest.mark.parametrize(("capacity", "mean"), [(6, 1.5), (100, 1.0), (100, 9.0)])
def test_stretches_of_several_streams_are_their_rows(capacity, mean):
    """Episodes are numbered, and take their rows, as if each row of steps had been added by itself."""
    rng = np.random.default_rng(4)
    whole, single = (rv.ReplayBuffer(scalar_spec(), 3 * capacity, streams=3, seed=0) for _ in range(2))
    for count, streams in ((2, [0, 1, 2]), (40, [2, 0]), (1, [1]), (130, [0, 1, 2]), (3, [1, 2])):
        given = some_steps(rng, (count, len(streams)), mean)
        whole.extend(**given, streams=streams)
        for row in range(count):
            single.add_batch(**{name: values[row] for name, values in given.items()}, streams=streams)
        one, other = np.asarray(whole.episodes), np.asarray(single.episodes)
        np.testing.assert_array_equal(one, other, str((count, streams)))
        assert one["start"].tolist() == other["start"].tolist()


def test_the_parts_of_a_stretch_by_hand():
    """Three steps go on with an episode, end it with the first, make one of one step, and begin one."""
    buffer = rv.ReplayBuffer(scalar_spec(), 4, seed=0)
    for _ in range(2):
        buffer.add(obs=0, action=0, reward=1.5, terminated=False, truncated=False)
    stretch = Stretch(buffer.engine.index, 0, np.array([TERMINATED, CUT, RUNNING]))
    assert stretch.parts == [
        Part(ordinal=0, order=0, start=0, first=2, stop=3, ended=TERMINATED, before=3.0),
        Part(ordinal=1, order=1, start=3, first=3, stop=4, ended=CUT, before=0.0),
        Part(ordinal=2, order=2, start=4, first=4, stop=5, ended=RUNNING, before=0.0),
    ]
    assert [part.begins for part in stretch.parts] == [False, True, True]
    assert [stretch.tail_at(head) for head in (2, 3, 4, 5)] == [0, 0, 0, 1]
    assert [stretch.begun_at(head) for head in (2, 3, 4, 5)] == [1, 1, 2, 3]
    assert [stretch.runs_at(head) for head in (2, 3, 4, 5)] == [True, False, False, True]
    first, rewards = stretch.parts[0], np.array([0.25, 9.0, 9.0], np.float32)
    assert [total_at(first, head, rewards) for head in (2, 3, 5)] == [3.0, 3.25, 3.25]
    assert [ended_at(first, head) for head in (2, 3)] == [RUNNING, TERMINATED]


def test_anchors_by_rank_by_hand():
    """Episodes without an anchor are left out; the others' come one after the other."""
    found = Candidates.of(np.array([4, 7, 2]), np.array([10, 20, 30]), np.array([12, 20, 33]))
    assert (found.episodes.tolist(), found.ends.tolist(), found.total) == ([4, 2], [2, 5], 5)
    episodes, ids = found.at_rank(np.arange(5))
    assert (episodes.tolist(), ids.tolist()) == ([4, 4, 2, 2, 2], [10, 11, 30, 31, 32])
    assert Candidates.of(np.array([4]), np.array([10]), np.array([10])).total == 0


@pytest.mark.parametrize(
    ("boundary", "anchors"),
    # Episodes hold the steps 0 to 3, 4 to 7 (discarded), 8 to 11 and 12, which runs: what comes after it is not known.
    [
        ("inside", [0, 1, 2, 8, 9, 10]),
        ("pad_right", [0, 1, 2, 3, 8, 9, 10, 11, 12]),
        ("pad_left", [0, 1, 2, 3, 8, 9, 10, 11, 12]),
    ],
)
def test_a_discarded_episode_has_no_anchor(boundary, anchors):
    """Of four episodes one is discarded: the others' anchors are ranked as ever, and it counts no more."""
    buffer = rv.ReplayBuffer(scalar_spec(), 20, seed=0)
    for step in range(13):
        buffer.add(obs=step, action=0, reward=0.0, terminated=step in (3, 7, 11), truncated=False)
    buffer.discard(buffer.episodes.ids[1])
    index = buffer.engine.index
    assert (kept_steps(index), len(buffer.episodes)) == (9, 3)
    found = anchors_of(index, boundary, 2)
    episodes, ids = found.at_rank(np.arange(found.count()))
    assert sorted(ids.tolist()) == anchors
    assert (index.start[episodes] <= ids).all()
    assert (ids < index.stop[episodes]).all()
    assert repr(buffer.episodes[1]) == (
        "EpisodeRow(stream=0, start=8, stop=12, length=4, live=4, return=0.0, ended='terminated')"
    )


def test_episodes_of_all_streams_are_drawn():
    """Each live episode is as likely as another, whichever stream it is of, and however many its stream has."""
    buffer = rv.ReplayBuffer(scalar_spec(), 30, streams=3, seed=0)
    for stream, steps in enumerate((5, 0, 12)):  # 12 steps into 10 slots: two of the episodes are gone
        for _ in range(steps):
            buffer.add(obs=0, action=0, reward=0.0, terminated=True, truncated=False, stream=stream)
    index = buffer.engine.index
    drawn = index.uniform_episodes(np.random.default_rng(0), 3_000)
    found, counts = np.unique(drawn, return_counts=True)
    assert set(found.tolist()) == set(index.live_episodes().tolist())
    assert len(found) == 15
    assert (counts.min() > 140, counts.max() < 260) == (True, True)  # 200 each; a deviation is below 14


def test_room_is_made_once_for_a_stretch():
    """After `reserve` there is room, and the tables are no larger than the stretch needs."""
    index = EpisodeIndex(1, 100)
    assert (index.by_ordinal.shape, len(index.start)) == ((1, 8), 64)
    for episodes, width, rows in ((7, 8, 64), (8, 16, 64), (64, 128, 64), (65, 128, 128)):
        stretch = Stretch(index, 0, np.full(episodes, TERMINATED))
        assert stretch.lacks_room() == (episodes != 7)
        stretch.reserve()
        assert not stretch.lacks_room()
        assert (index.by_ordinal.shape, len(index.start)) == ((1, width), rows)
        assert (sorted(index.free), len(index.free)) == (list(range(rows)), rows)
        assert (stretch.needed, stretch.most_live()) == (episodes, episodes)
    assert Stretch(index, 0, np.full(300, TERMINATED)).needed == 101


def test_rows_are_reserved_for_several_streams_together():
    """Two streams that need 40 rows each find 80, and as many places each as they need."""
    index = EpisodeIndex(2, 50)
    stretches = stretches_of(index, np.array([1, 0]), np.full((40, 2), TERMINATED))
    reserve_rows(index, stretches)
    assert (len(index.start), index.by_ordinal.shape) == (128, (2, 64))
    assert sorted(index.free) == list(range(128))
    assert [[part.order for part in stretch.parts[:3]] for stretch in stretches] == [[0, 2, 4], [1, 3, 5]]


def test_a_stretch_tells_which_runs_are_sealed():
    """A run of 32 steps is sealed once the step after its last one is there; the last run of the ring is shorter."""
    index = EpisodeIndex(1, 70)
    for steps, sealed in (
        (32, []),
        (33, [(0, 32)]),
        (70, [(0, 32), (32, 64)]),
        (71, [(0, 32), (32, 64), (64, 70)]),
    ):
        assert Stretch(index, 0, np.zeros(steps, int)).sealed(0) == sealed


def test_the_final_observations_of_a_stretch_that_are_held_at_once():
    """A ring of 3 steps that ends an episode with each holds 4: the newest one is stored before the oldest goes."""
    buffer = rv.ReplayBuffer(scalar_spec(), 3, seed=0)
    index = buffer.engine.index
    assert Stretch(index, 0, np.full(2, TERMINATED)).most_shown() == 2
    assert Stretch(index, 0, np.full(9, TERMINATED)).most_shown() == 4
    assert Stretch(index, 0, np.zeros(9, int)).most_shown() == 0
    for _ in range(3):
        buffer.add(obs=0, action=0, reward=0.0, terminated=True, truncated=False, final_obs=1)
    assert Stretch(index, 0, np.full(9, TERMINATED)).most_shown() == 1


def test_a_stretch_after_a_break_where_one_step_is_all_that_is_kept():
    """Room is made before the cut: the episode that was left running goes with the second step, not with the first."""
    buffer = rv.ReplayBuffer(scalar_spec(), 1, seed=0)
    index = buffer.engine.index
    buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False)
    index.seams = {0}
    stretch = Stretch(index, 0, np.zeros(2, int))
    assert (stretch.sews, [stretch.dropped_at(head) for head in (1, 2, 3)]) == (True, [0, 0, 1])
    buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False)
    assert (index.dropped.tolist(), index.begun.tolist()) == ([0], [2])
    buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False)
    assert (index.dropped.tolist(), index.begun.tolist()) == ([1], [2])


def test_a_stretch_needs_no_more_rows_than_its_ring_has_room_for():
    """Three episodes are live in a ring of 100 steps: 98 more, one of which begins before the oldest one goes."""
    buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=0)
    for _ in range(3):
        buffer.add(obs=0, action=0, reward=0.0, terminated=True, truncated=False)
    ends = np.full(300, TERMINATED)
    assert [Stretch(buffer.engine.index, 0, ends[:steps]).needed for steps in (5, 97, 98, 99, 300)] == [
        5,
        97,
        98,
        98,
        98,
    ]


@pytest.mark.parametrize(("capacity", "grows"), [(64, 0), (65, 1)])
def test_the_table_grows_unless_the_step_itself_makes_room(capacity, grows):
    """64 episodes of one step take all 64 rows; the next one takes that of the oldest if the ring is full by then."""
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, seed=0)
    for _ in range(64):
        buffer.add(obs=0, action=0, reward=0.0, terminated=True, truncated=False)
    assert Stretch(buffer.engine.index, 0, np.array([TERMINATED])).growth() == grows
