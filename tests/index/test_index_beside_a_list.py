"""The index beside plain lists of episodes: every way to add, cut, evict, mend and rebuild, and every question."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from reverie.index import CUT, NEVER, NO_EPISODE, NO_FINAL, RUNNING, TERMINATED, TRUNCATED, EpisodeIndex
from reverie.index.restore import EpisodeColumns, check_table_rows, rebuild, table_rows

ENDS = (RUNNING, RUNNING, RUNNING, TERMINATED, TRUNCATED, TERMINATED | TRUNCATED)
NO_SLOTS = np.zeros(0, np.int64)


@dataclass
class Listed:
    """An episode, as a list keeps it."""

    start: int
    stop: int
    order: int
    ordinal: int
    ended: int = RUNNING
    final: int = NO_FINAL
    total: float = 0.0


@dataclass
class Lane:
    """A stream: its live episodes, the oldest first."""

    episodes: list = field(default_factory=list)
    head: int = 0
    tail: int = 0
    begun: int = 0

    @property
    def running(self):
        return self.episodes[-1] if self.episodes and self.episodes[-1].ended == RUNNING else None


class Lists:
    """What an index of these sizes has to know, in lists."""

    def __init__(self, streams, capacity):
        self.capacity, self.order = capacity, 0
        self.lanes = [Lane() for _ in range(streams)]

    def evict(self, stream, tail):
        """Move the tail; return the final slots of the episodes that are gone with it."""
        lane, freed = self.lanes[stream], []
        lane.tail = max(lane.tail, tail)
        while lane.episodes and lane.episodes[0].ended and lane.episodes[0].stop <= lane.tail:
            gone = lane.episodes.pop(0)
            freed += [gone.final] * (gone.final != NO_FINAL)
        return freed

    def add(self, stream, reward, ended=RUNNING, final=NO_FINAL):
        lane = self.lanes[stream]
        if lane.running is None:
            lane.episodes.append(Listed(lane.head, lane.head, self.order, lane.begun))
            self.order, lane.begun = self.order + 1, lane.begun + 1
        episode = lane.running
        lane.head += 1
        episode.stop, episode.total = lane.head, episode.total + reward
        if ended:
            episode.ended, episode.final = ended, final

    def derive(self):
        """Let go of all that lies before the tails, as an index does that is made anew."""
        for stream, lane in enumerate(self.lanes):
            self.evict(stream, lane.tail)

    def cut(self, stream, final=NO_FINAL):
        if self.lanes[stream].running is not None:
            running = self.lanes[stream].running
            running.ended, running.final = CUT, final


def live_length(lane, episode):
    return episode.stop - (episode.ended == RUNNING) - max(episode.start, lane.tail)


def check(index, lists):
    """Assert that every array and every answer is what the lists say."""
    lanes, capacity = lists.lanes, lists.capacity
    assert index.head.tolist() == [lane.head for lane in lanes]
    assert index.tail.tolist() == [lane.tail for lane in lanes]
    assert index.begun.tolist() == [lane.begun for lane in lanes]
    assert index.dropped.tolist() == [lane.begun - len(lane.episodes) for lane in lanes]
    assert index.next_order == lists.order
    entries = {}
    for stream, lane in enumerate(lanes):
        for episode in lane.episodes:
            entry = entries[episode.order] = index.episode_of(stream, episode.ordinal)
            told = [column.item(entry) for column in (index.start, index.stop, index.settled, index.final_slot,
                    index.stream, index.ordinal, index.order, index.ended, index.total)]  # fmt: skip
            assert told == [episode.start, episode.stop, episode.stop - (episode.ended == RUNNING), episode.final,
                            stream, episode.ordinal, episode.order, episode.ended, episode.total]  # fmt: skip
            for step in range(max(episode.start, lane.tail), episode.stop):
                assert index.episode_of_slot[stream * capacity + step % capacity] == entry
        first = lane.episodes[0] if lane.episodes else None
        assert index.open_episode[stream] == (entries[lane.running.order] if lane.running else NO_EPISODE)
        assert index.front_episode[stream] == (entries[first.order] if first else NO_EPISODE)
        assert index.front_stop[stream] == (first.stop if first and first.ended else NEVER)
        if first:
            assert index.newest(stream) == lane.episodes[-1].order
    by_order = [entries[order] for order in sorted(entries)]
    assert index.live_episodes().tolist() == by_order
    assert sorted([*index.free, *by_order]) == list(range(len(index.start)))
    assert index.is_live(np.array(by_order, np.int64)).all()
    finals = [episode.final for lane in lanes for episode in lane.episodes if episode.final != NO_FINAL]
    assert sorted(index.live_final_slots().tolist()) == sorted(finals)
    check_counts(index, lists, entries)


def check_counts(index, lists, entries):
    """Assert that steps, windows and episodes are counted and ranked as the lists have them."""
    lanes = lists.lanes
    steps = [(stream, step) for stream, lane in enumerate(lanes) for step in range(lane.tail, lane.head)]
    assert (index.live_steps(), index.is_empty()) == (len(steps), not steps)
    stream, ids = index.id_at_rank(np.arange(len(steps)))
    assert list(zip(stream.tolist(), ids.tolist(), strict=True)) == steps
    assert index.are_live(stream, ids).all()
    for beyond in (-1, 0):
        ends = np.array([(lane.head if beyond == 0 else lane.tail - 1) for lane in lanes])
        assert not index.are_live(np.arange(len(lanes)), ends).any()
    episodes, ids = index.step_at_rank(np.arange(len(steps)))
    assert list(zip(index.streams_of(episodes).tolist(), ids.tolist(), strict=True)) == steps
    lengths = {entries[episode.order]: (max(episode.start, lane.tail), live_length(lane, episode))
               for lane in lanes for episode in lane.episodes}  # fmt: skip
    assert index.longest() == max([0, *(length for _, length in lengths.values())])
    for length in (1, 2, 3, 5, 8):
        windows = [(entry, first + offset) for entry, (first, many) in lengths.items()
                   for offset in range(many - length + 1)]  # fmt: skip
        assert index.count_windows(length) == len(windows)
        assert index.count_episodes(length) == sum(many >= length for _, many in lengths.values())
        if windows:
            rows, ids = index.window_at_rank(length, np.arange(len(windows)))
            assert sorted(zip(rows.tolist(), ids.tolist(), strict=True)) == sorted(windows)


class Machine:
    """An index and its lists, to which the same random things happen."""

    def __init__(self, streams, capacity, seed):
        self.index, self.lists = EpisodeIndex(streams, capacity), Lists(streams, capacity)
        self.rng, self.streams, self.capacity, self.final = (
            np.random.default_rng(seed),
            streams,
            capacity,
            100,
        )

    def ending(self):
        ended = int(self.rng.choice(ENDS))
        self.final += 1
        return ended, self.final if ended and self.rng.random() < 0.5 else NO_FINAL

    def full(self, stream):
        lane = self.lists.lanes[stream]
        return lane.head - lane.tail == self.capacity

    def let_go(self, streams):
        """Let the lists lose a step of each stream that is full; return the final slots that were freed."""
        freed = []
        for stream in streams:
            if self.full(stream):
                freed += self.lists.evict(stream, self.lists.lanes[stream].tail + 1)
        return freed

    def mend(self):
        """Undo the last change, twice; what lies before the tail goes with that."""
        self.index.mend()
        self.index.mend()
        self.lists.derive()
        check(self.index, self.lists)

    def one(self, mended=False):
        index, stream = self.index, int(self.rng.integers(self.streams))
        ended, final = self.ending()
        if index.begins(stream):
            index.reserve([stream])
            assert not index.lacks_room([stream])
        lane = self.lists.lanes[stream]
        wanted = stream * self.capacity + lane.head % self.capacity
        if not ended and self.rng.random() < 0.7:
            oldest = lane.episodes[0] if lane.episodes else None
            drops = self.full(stream) and oldest.ended and oldest.stop <= lane.tail + 1
            slot = index.go_on(stream, 0.5)
            assert slot == (wanted if lane.running and not drops else -1)
            if slot >= 0:
                self.let_go([stream])
                if mended:
                    self.mend()
                    assert index.go_on(stream, 0.5) == slot
                self.lists.add(stream, 0.5)
                return
        assert index.make_room(stream) == (wanted, self.let_go([stream]))
        assert index.make_room(stream) == (wanted, []), "twice is fine"
        if mended:
            index.commit(stream, wanted, 0.5, ended, final)
            self.mend()
            index.reserve([stream])
        index.commit(stream, wanted, 0.5, ended, final)
        self.lists.add(stream, 0.5, ended, final)

    def many(self, mended=False):
        index = self.index
        streams = self.rng.permutation(self.streams)[: int(self.rng.integers(1, self.streams + 1))]
        begins = [stream for stream in streams.tolist() if index.begins(stream)]
        index.reserve(begins)
        slots, freed = index.make_room_many(streams)
        assert freed == self.let_go(streams.tolist())
        assert slots.tolist() == [stream * self.capacity + self.lists.lanes[stream].head % self.capacity
                                  for stream in streams.tolist()]  # fmt: skip
        endings = [self.ending() for _ in streams]
        rewards = self.rng.integers(0, 8, len(streams)).astype(np.float32)
        ended = np.array([one for one, _ in endings])
        finals = np.array([slot for _, slot in endings]) if self.rng.random() < 0.7 else None
        if mended:
            index.commit_many(streams, slots, rewards, ended, finals)
            self.mend()
            index.reserve([stream for stream in streams.tolist() if index.begins(stream)])
        index.commit_many(streams, slots, rewards, ended, finals)
        for lane, stream in enumerate(streams.tolist()):
            final = NO_FINAL if finals is None else finals.item(lane)
            self.lists.add(stream, rewards.item(lane), ended.item(lane), final)

    def span(self, mended=False):
        index, stream = self.index, int(self.rng.integers(self.streams))
        lane = self.lists.lanes[stream]
        if lane.running is None:
            return
        count = int(self.rng.integers(1, self.capacity - lane.head % self.capacity + 1))
        slot, freed = index.make_room_span(stream, count)
        assert slot == stream * self.capacity + lane.head % self.capacity
        assert freed == self.lists.evict(stream, lane.head + count - self.capacity)
        rewards = self.rng.integers(0, 8, count).astype(np.float32)
        if mended:
            index.commit_span(stream, slot, rewards)
            self.mend()
        index.commit_span(stream, slot, rewards)
        for reward in rewards.tolist():
            self.lists.add(stream, reward)

    def cut(self, mended=False):
        index, stream = self.index, int(self.rng.integers(self.streams))
        final = self.ending()[1]
        if mended and self.lists.lanes[stream].running:
            index.cut(stream, final)
            self.mend()
        index.cut(stream, final)
        self.lists.cut(stream, final)

    def evict(self, mended=False):
        stream = int(self.rng.integers(self.streams))
        lane = self.lists.lanes[stream]
        tail = int(self.rng.integers(max(0, lane.tail - 2), lane.head + 1))
        assert self.index.evict(stream, tail) == self.lists.evict(stream, tail)
        if mended:
            self.index.derive()
            self.lists.derive()

    def sew(self, mended=False):
        """The next step of a stream begins another episode, since the program was started anew."""
        stream = int(self.rng.integers(self.streams))
        if self.lists.lanes[stream].running is None:
            return
        index = self.index
        index.seams.add(stream)
        assert index.begins(stream)
        assert index.go_on(stream, 0.0) == -1
        index.reserve([stream])
        slot, freed = index.make_room(stream)
        assert freed == self.let_go([stream])
        if mended:
            index.commit(stream, slot, 1.0, RUNNING, NO_FINAL)
            self.mend()
            assert index.seams == {stream}
            index.reserve([stream])
        if self.rng.random() < 0.5:
            index.commit(stream, slot, 1.0, RUNNING, NO_FINAL)
        else:
            zero = np.array([RUNNING])
            index.commit_many(np.array([stream]), np.array([slot]), np.ones(1, np.float32), zero, None)
        assert index.seams == set()
        self.lists.cut(stream)
        self.lists.add(stream, 1.0)

    def reopened(self, mended=False):
        """A new index is made of the columns of this one; `mended` gives its episodes the rows that they had."""
        index, live = self.index, self.index.live_episodes()
        columns = EpisodeColumns(**{name: getattr(index, name)[live] for name in EpisodeColumns._fields})
        rows = table_rows(index)
        fresh = EpisodeIndex(self.streams, self.capacity)
        check_table_rows(rows, fresh)
        fresh.begun[:], fresh.dropped[:], fresh.next_order = index.begun, index.dropped, index.next_order
        rebuild(fresh, index.head, index.tail, columns, rows if mended else None)
        if mended and len(fresh.live_episodes()) == len(live):  # none lay before the tail
            assert fresh.free == index.free
            np.testing.assert_array_equal(fresh.live_episodes(), live)
        self.lists.derive()
        self.index = fresh


@pytest.mark.parametrize("mended", [False, True], ids=["", "mended"])
@pytest.mark.parametrize(("streams", "capacity"), [(1, 1), (1, 7), (2, 5), (3, 12), (5, 3)])
def test_an_index_knows_what_lists_know(streams, capacity, mended):
    """After each of 250 random changes; `mended` undoes each change once before it is made for good."""
    machine = Machine(streams, capacity, seed=streams * 100 + capacity + mended)
    names = ["one"] * 5 + ["many"] * 2 + ["span", "cut", "evict", "sew", "reopened"]
    check(machine.index, machine.lists)
    for _ in range(250):
        getattr(machine, str(machine.rng.choice(names)))(mended)
        check(machine.index, machine.lists)


def test_derive_lets_go_of_all_that_lies_before_the_tail():
    """Also where that is every episode of a stream, and with one that has just begun."""
    machine = Machine(2, 6, seed=0)
    for _ in range(30):
        machine.one()
    for stream in (0, 1):
        machine.index.cut(stream)
        machine.lists.cut(stream)
    machine.index.tail[0] = machine.index.head[0]
    machine.lists.evict(0, machine.lists.lanes[0].head)
    machine.index.derive()
    check(machine.index, machine.lists)


def test_the_table_and_its_places_grow_only_when_they_must():
    """Sixty-four episodes fit into the first table; a stream has eight places, and twice as many when they are full."""
    index = EpisodeIndex(1, 100)
    sizes = []
    for _ in range(130):
        index.reserve([0])
        slot, _ = index.make_room(0)
        index.commit(0, slot, 0.0, TERMINATED, NO_FINAL)
        sizes.append((len(index.start), index.by_ordinal.shape[1]))
    assert sizes[:17] == [(64, 8)] * 8 + [(64, 16)] * 8 + [(64, 32)]
    assert sizes[63:65] == [(64, 64), (128, 128)]
    assert sizes[-1] == (128, 128), "from the hundredth on, each lets one go"
    assert index.lacks_room([0]) is False
    assert len(EpisodeIndex(70, 1).start) == 70


def test_room_for_one_episode_in_each_of_several_streams():
    """The table doubles until there is a free entry for each stream at once."""
    index = EpisodeIndex(40, 100)
    for _ in range(2):
        streams = np.arange(40)
        assert index.lacks_room(streams.tolist()) is (len(index.free) < 40)
        index.reserve(streams.tolist())
        slots, _ = index.make_room_many(streams)
        index.commit_many(streams, slots, np.zeros(40, np.float32), np.full(40, TERMINATED), None)
    assert (len(index.start), len(index.free)) == (128, 48)
    assert index.order[index.live_episodes()].tolist() == list(range(80))


def test_moments_differ_after_every_change():
    """A step, a cut, an episode, an eviction and metadata each make another moment; looking makes none."""
    for streams in (1, 2):
        index = EpisodeIndex(streams, 9)
        last = streams - 1
        moments, of_episodes = [index.moment()], [index.moment_of_episodes()]

        def changed(also_episodes, index=index, moments=moments, of_episodes=of_episodes):
            assert index.moment() not in moments
            assert (index.moment_of_episodes() != of_episodes[-1]) is also_episodes
            moments.append(index.moment())
            of_episodes.append(index.moment_of_episodes())

        def add(ended=RUNNING, index=index, last=last):
            slot, _ = index.make_room(last)
            index.commit(last, slot, 0.0, ended, NO_FINAL)

        add()
        changed(True)
        add()
        changed(False)
        index.cut(last)
        changed(False)
        add(TERMINATED)
        changed(True)
        index.label({0: {"good": True}})
        changed(True)
        index.relabel({})
        changed(True)
        index.evict(last, 1)
        changed(False)
        index.evict(last, 2)
        changed(True)
        assert index.moment() == moments[-1]


def test_metadata_goes_with_its_episode():
    """What was discarded is known as long as the episode is live; turns are counted where that changes."""
    index = EpisodeIndex(1, 4)
    for _ in range(4):
        slot, _ = index.make_room(0)
        index.commit(0, slot, 0.0, TERMINATED, NO_FINAL)
    gone = {"reverie:discarded": True}
    index.label({0: {"a": 1}, 1: gone})
    assert (index.gone, index.edits, index.turns) == ({1}, 1, 1)
    index.label({1: gone, 2: {"b": 2}})
    assert (index.gone, index.edits, index.turns) == ({1}, 2, 1)
    index.evict(0, 1)
    assert set(index.labels) == {1, 2}
    index.evict(0, 2)
    assert (set(index.labels), index.gone) == ({2}, set())
    index.relabel({2: gone, 3: {}})
    assert (index.gone, index.edits, index.turns) == ({2}, 3, 2)
    index.tail[0] = 3
    index.derive()
    assert (index.labels, index.gone) == ({3: {}}, set())


@pytest.mark.parametrize(("changed", "words"), [
    ({"row": np.array([0, 1], np.int32)}, "no such arrays"), ({"free": np.zeros((1, 1), np.int64)}, "no such arrays"),
    ({"free": np.arange(2, 99)}, "no such arrays"), ({"stream": np.array([0])}, "not as many as its episodes"),
    ({"ordinal": np.array([0])}, "not as many as its episodes"), ({"row": np.array([0, 0])}, "are no rows"),
    ({"row": np.array([-1, 0])}, "are no rows"), ({"free": np.arange(3, 65)}, "are no rows"),
    ({"free": np.array([2, 1])}, "are no rows"), ({"free": np.arange(2, 65)}, "too many"), ({}, None),
    ({"free": NO_SLOTS}, None), ({"free": np.arange(2, 64)}, None),
    ({"stream": NO_SLOTS, "ordinal": NO_SLOTS, "row": NO_SLOTS, "free": NO_SLOTS}, None),
])  # fmt: skip
def test_rows_that_are_none_are_refused(changed, words):
    """Rows are whole numbers from 0, each once; there are as many as an index of this size may come to have."""
    index = EpisodeIndex(2, 5)
    for stream in (0, 1):
        slot, _ = index.make_room(stream)
        index.commit(stream, slot, 0.0, TERMINATED, NO_FINAL)
    rows = table_rows(index)._replace(free=np.arange(2, 20))._replace(**changed)
    if words is None:
        check_table_rows(rows, index)
        return
    with pytest.raises(ValueError, match=words):
        check_table_rows(rows, index)
