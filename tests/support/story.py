"""Steps that tell which they are, so that a file can be judged without knowing how it came to be."""

from dataclasses import dataclass, field

import numpy as np

import reverie as rv
from reverie.index import ENDED_NAMES, NO_FINAL, RUNNING

SHAPE = (12, 12)  # wide enough to be packed, and to be kept as a change of the step before
PLACES = np.arange(SHAPE[0] * SHAPE[1])
WEIGHTS = PLACES * 2654435761 % 1_000_003 + 1
GOES_ON, TERMINATED, TRUNCATED, CUT = range(4)  # what comes of a step


def spec() -> rv.StepSpec:
    """A wide observation, an action, a checksum of the step, and a field to be written back."""
    extras = {"check": rv.Field((), "uint32"), "note": rv.Field((), "int64")}
    return rv.StepSpec(rv.Field(SHAPE, "uint8"), rv.Field((), "int64"), extras)


def observations(stream: int, ids: np.ndarray, seed: int) -> np.ndarray:
    """The observations of these steps: most of one is as it was a step before."""
    ids = np.asarray(ids, np.int64)[:, None]
    rows = (PLACES * (3 + ids // 50) + stream * 7 + seed + (ids % 11 == PLACES % 11)).astype(np.uint8)
    rows[:, :8] = (ids * 64 + stream).astype("<i8").view(np.uint8).reshape(-1, 8)
    return rows.reshape(-1, *SHAPE)


def columns(stream: int, ids: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """All columns of these steps as they are added."""
    ids = np.asarray(ids, np.int64)
    obs = observations(stream, ids, seed)
    action = ids * 64 + stream
    reward = rewards(stream, ids, seed)
    return {"obs": obs, "action": action, "reward": reward, "extras/check": checksums(obs, action),
            "extras/note": -1 - ids}  # fmt: skip


def rewards(stream: int, ids: np.ndarray, seed: int) -> np.ndarray:
    """The rewards of these steps: whole numbers, so that sums are exact."""
    return ((ids * 31 + stream * 17 + seed) % 101 - 50).astype(np.float32)


def checksums(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """What steps say of themselves in `check`."""
    rows = obs.reshape(*action.shape, -1).astype(np.int64)
    return ((rows @ WEIGHTS + action * 31) & 0xFFFFFFFF).astype(np.uint32)


def rewritten(ids: np.ndarray) -> np.ndarray:
    """What `write_back` puts in place of a note."""
    return 7 * np.asarray(ids, np.int64) + 1


@dataclass
class Story:
    """What a writer of this seed adds, whenever it is killed.

    Attributes:
        seed: of everything; rarity: an episode ends about once in so many steps.
        sure: whether every end shows its final observation.
        streams, capacity: of the buffer; a stream keeps `capacity // streams` steps.
        torn: stream -> ids at which an open episode was cut because its writer was killed.
        finals: (stream, id) of a planned cut -> whether its final observation came through.
    """

    seed: int
    streams: int
    capacity: int
    rarity: int = 12
    sure: bool = False
    torn: dict[int, set[int]] = field(default_factory=dict)
    finals: dict[tuple[int, int], bool] = field(default_factory=dict)

    @property
    def each(self) -> int:
        """Steps that a stream keeps."""
        return self.capacity // self.streams

    def fates(self, stream: int, ids: np.ndarray) -> np.ndarray:
        """What comes of these steps."""
        mixed = ((np.asarray(ids, np.int64) + 1) * 2654435761 + stream * 40503 + self.seed * 97) % 2**32
        return np.array([TERMINATED, TRUNCATED, CUT] + [GOES_ON] * (3 * self.rarity))[
            (mixed >> 9) % (3 + 3 * self.rarity)
        ]

    def final(self, stream: int, step: int) -> np.ndarray | None:
        """What is seen after an episode's last step, if anything."""
        if (step * 31 + stream) % 3 == 0 and not self.sure:
            return None
        return observations(stream, np.array([step + 1_000_000]), self.seed)[0]

    def step(self, stream: int, step: int) -> dict:
        """The arguments of `add` for one step."""
        row = {name: value[0] for name, value in columns(stream, np.array([step]), self.seed).items()}
        fate = int(self.fates(stream, np.array([step]))[0])
        ends = fate in (TERMINATED, TRUNCATED)
        return {"obs": row["obs"], "action": row["action"], "reward": float(row["reward"]), "stream": stream,
                "check": row["extras/check"], "note": row["extras/note"], "terminated": fate == TERMINATED,
                "truncated": fate == TRUNCATED, "final_obs": self.final(stream, step) if ends else None}  # fmt: skip

    def lanes(self, streams: list[int], ids: list[int]) -> dict:
        """The arguments of `add_batch` for one step of each of several streams."""
        assert self.sure, "lanes of one call agree on whether final observations are known"
        rows = [self.step(stream, step) for stream, step in zip(streams, ids, strict=True)]
        blank = np.zeros(SHAPE, np.uint8)
        known = any(row["final_obs"] is not None for row in rows)
        lanes = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "final_obs"}
        lanes["reward"] = lanes["reward"].astype(np.float32)
        del lanes["stream"]
        finals = np.array([blank if row["final_obs"] is None else row["final_obs"] for row in rows])
        return {**lanes, "final_obs": finals if known else None, "streams": np.array(streams)}

    def boundaries(self, stream: int, head: int) -> np.ndarray:
        """The ids before which an episode has ended, up to `head`; a planned cut at `head` may be missing yet."""
        ends = np.flatnonzero(self.fates(stream, np.arange(head))) + 1
        return np.union1d(ends, [at for at in self.torn.get(stream, ()) if at <= head]).astype(np.int64)


def heads(buffer: rv.ReplayBuffer) -> list[int]:
    """The id that the next step of each stream gets."""
    with buffer.engine.turn:
        return buffer.engine.index.head.tolist()


def check(
    buffer: rv.ReplayBuffer, story: Story, *, noted: np.ndarray | None = None, finals: bool = True
) -> None:
    """Assert that a buffer holds what the story says, bit for bit, up to wherever each stream has come.

    Args:
        buffer: open, in whatever way.
        story: what was added.
        noted: (streams, capacity of each) one more than the ids whose notes must have been written back.
        finals: whether each end has the final observation that the story says.
    """
    with buffer.engine.turn:
        index = buffer.engine.index
        listed = buffer.episodes
        rows = index.live_episodes()
        for stream in range(story.streams):
            head, tail = index.head.item(stream), index.tail.item(stream)
            assert tail == max(0, head - story.each), (stream, head, tail)
            _check_steps(buffer, story, stream, np.arange(tail, head), noted)
            mine = listed["stream"] == stream
            _check_episodes(buffer, story, stream, head, tail, listed[mine], rows[mine], finals)
        if len(buffer):
            for length in (1, 4):
                if buffer.count_windows(length):
                    check_batch(buffer.sample(8, length), story)


def _check_steps(buffer, story, stream, ids, noted) -> None:
    if not len(ids):
        return
    slots = stream * story.each + ids % story.each
    for name, wanted in columns(stream, ids, story.seed).items():
        got = np.zeros_like(wanted)
        buffer.engine.store.gather(name, slots, got)
        if name == "extras/note":
            new = rewritten(ids)
            assert ((got == wanted) | (got == new)).all(), (stream, ids[(got != wanted) & (got != new)])
            if noted is not None:
                due = noted[stream, ids % story.each] == ids + 1
                assert (got[due] == new[due]).all(), (stream, ids[due])
        else:
            np.testing.assert_array_equal(got, wanted, f"{name} of stream {stream}")


def _check_episodes(buffer, story, stream, head, tail, listed, rows, finals) -> None:
    if head == 0:
        assert not len(listed)
        return
    ends = story.boundaries(stream, head)
    starts = np.concatenate([[0], ends[ends < head]])
    stops = np.append(starts[1:], head)
    live = stops > tail
    assert listed["start"].tolist() == starts[live].tolist(), stream
    assert listed["stop"].tolist() == stops[live].tolist(), stream
    sums = np.append(0.0, rewards(stream, np.arange(head), story.seed).cumsum(dtype=np.float64))
    assert listed["return"].tolist() == (sums[stops] - sums[starts])[live].tolist(), stream
    index = buffer.engine.index
    for entry, row in zip(listed, rows.tolist(), strict=True):
        stop = int(entry["stop"])
        fate = int(story.fates(stream, np.array([stop - 1]))[0])
        torn = stop in story.torn.get(stream, ())
        # Whoever reopens a file to write cuts what was torn; a reader may come before that.
        past = stop < head or (torn and buffer.engine.changes.writer is not None)
        open_end = ("running",) if fate == GOES_ON and not torn else ("running", "cut")
        wanted = {TERMINATED: ("terminated",), TRUNCATED: ("truncated",)}.get(
            fate, ("cut",) if past else open_end
        )
        assert entry["ended"] in wanted, (stream, stop, entry)
        place = index.final_slot.item(row)
        final = story.final(stream, stop - 1) if fate != GOES_ON else None
        if place == NO_FINAL:
            known = False
        else:
            known = True
            assert final is not None, (stream, stop)
            np.testing.assert_array_equal(buffer.engine.finals.gather("obs", np.array([place]))[0], final)
        if fate in (TERMINATED, TRUNCATED) and finals:
            assert known == (final is not None), (stream, stop)
        if fate == CUT and finals and final is not None and past:  # what it is now it stays
            assert story.finals.setdefault((stream, stop), known) == known, (stream, stop)
    assert all(ENDED_NAMES[RUNNING] != kind for kind in listed["ended"][:-1]), stream


def check_batch(batch: rv.SequenceBatch, story: Story) -> None:
    """Assert that every window shows consecutive steps of one episode, each as it was added."""
    length = batch.action.shape[1]
    for row in range(len(batch.start)):
        stream, start = int(batch.stream[row]), int(batch.start[row])
        ids = np.arange(start, start + length)
        wanted = columns(stream, ids, story.seed)
        np.testing.assert_array_equal(batch.obs[row, :-1], wanted["obs"])
        np.testing.assert_array_equal(batch.action[row], wanted["action"])
        np.testing.assert_array_equal(batch.reward[row], wanted["reward"])
        np.testing.assert_array_equal(batch.extras["check"][row], wanted["extras/check"])
        fates = story.fates(stream, ids)
        assert not fates[:-1].any(), "a window runs over the end of an episode"
        assert not any(at in story.torn.get(stream, ()) for at in ids[1:].tolist())
        assert batch.terminated[row].tolist() == (fates == TERMINATED).tolist()
        assert batch.truncated[row].tolist() == (fates == TRUNCATED).tolist()
        if batch.obs_mask[row, -1]:
            last = (
                observations(stream, ids[-1:] + 1, story.seed)[0]
                if not fates[-1]
                else story.final(stream, start + length - 1)
            )
            np.testing.assert_array_equal(batch.obs[row, -1], last)


def read_all(buffer: rv.ReplayBuffer) -> None:
    """Read every row of a buffer's file, all of which check themselves, and let SQLite check its own."""
    file = buffer.engine.file
    with buffer.engine.turn:
        assert file.db.integrity() == []
        for run, _ in file.runs():
            file.run(run.number)
        file.steps(), file.episodes(), file.arrays()
        for name in file.names():
            file.meta(name)
