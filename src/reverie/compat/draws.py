"""What the drop-in buffer draws: sequences, frames, and frames with their history."""

from __future__ import annotations

import numpy as np

from reverie.batch import SequenceBatch
from reverie.buffer import ReplayBuffer
from reverie.checks import natural, positive
from reverie.compat.counters import RingCounters
from reverie.compat.transitions import Floats, Frames, own_words
from reverie.errors import BadSetting, NotEnoughData, counted
from reverie.index import Anchors, Drawn, Ints
from reverie.samplers import Sampler, Uniform, uniform_steps


class SettledSteps(Sampler):
    """Every step whose next frame is known alike, whatever the length of its episode."""

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` of them."""
        return Uniform().draw(Anchors(anchors.index, "inside", 1), rng, count)


class RingDraws(RingCounters):
    """Draws from the ring of an `IRISReplayBuffer`, as its `terminals` tell where episodes end."""

    seq_len: int
    batch_size: int

    def _take(self, buffer: ReplayBuffer) -> None:
        super()._take(buffer)
        self._settled_steps = SettledSteps()

    def sample_sequence(self, seq_len: int | None = None) -> tuple[Frames, Floats, Floats, Floats]:
        """Return `batch_size` sequences, each valid one being equally likely.

        Args:
            seq_len: steps in each; None means the buffer's own `seq_len`.

        Returns:
            observations (B, L+1, *obs_shape) uint8: the last one is what came of the last step; actions
            (B, L, action_size), rewards (B, L) and terminals (B, L) float32.

        Raises:
            NotEnoughData: no episode holds that many steps yet; `sample_padded` takes shorter ones, too.
            BadSetting: a length that is no positive integer or larger than the ring.
        """
        batch = self._sequences(seq_len, "inside", None)
        return batch.obs, batch.action, batch.reward, batch.terminated.astype(np.float32)

    def sample_padded(self, seq_len: int | None = None) -> tuple[Frames, Floats, Floats, Floats, Floats]:
        """Return `batch_size` sequences that zeros fill up where an episode ends sooner, and a mask.

        The first step of each is any step whose next frame is known, all being equally likely. So episodes
        of any length are drawn from.

        Args:
            seq_len: steps in each; None means the buffer's own `seq_len`.

        Returns:
            observations, actions, rewards and terminals as `sample_sequence` returns them, and mask (B, L)
            float32: 1.0 for a step, 0.0 on padding. Where it is 1.0, the frame, the one after it, the action,
            the reward and the terminal are what happened; behind that everything is zero.

        Raises:
            NotEnoughData: no step has a known next frame yet.
            BadSetting: a length that is no positive integer or larger than the ring.
        """
        with self.engine.lock:
            batch = self._sequences(seq_len, "pad_right", self._settled_steps)
            running = self.engine.index.open_episode[0] >= 0
            newest = int(self.engine.index.head[0]) - 1 if running else -1
        if running:  # what comes of the newest step is not known yet
            rows, places = np.nonzero(batch.mask & (batch.step_ids() == newest))
            batch.mask[rows, places] = False
            batch.obs[rows, places + 1] = 0
            batch.action[rows, places], batch.reward[rows, places] = 0.0, 0.0
        terminals, mask = batch.terminated.astype(np.float32), batch.mask.astype(np.float32)
        return batch.obs, batch.action, batch.reward, terminals, mask

    def _sequences(self, seq_len: int | None, boundary: str, sampler: Sampler | None) -> SequenceBatch:
        length = positive("seq_len", self.seq_len if seq_len is None else seq_len)
        if length > self.size:
            raise BadSetting(
                f"seq_len: wanted at most the {counted(self.size, 'transition')} that are kept, got {length}; "
                f"make the buffer larger, or ask for shorter sequences"
            )

        def draw() -> SequenceBatch:
            batch = self._buffer.sample(self.batch_size, length, boundary=boundary, sampler=sampler)
            assert isinstance(batch, SequenceBatch)
            return batch

        def agrees(batch: SequenceBatch) -> bool:
            return bool((batch.extras["terminals"] == batch.terminated).all())

        with self.engine.lock, own_words():
            try:
                return self._agreeing(draw, agrees)
            except NotEnoughData:
                if self._was_edited():
                    self._read_ring()
                    return draw()
                raise self._not_enough(length, boundary) from None

    def _not_enough(self, length: int, boundary: str) -> NotEnoughData:
        if boundary != "inside":
            return NotEnoughData(
                f"wanted one step with a known next frame, got none among {counted(len(self), 'transition')}; add more"
            )
        return NotEnoughData(
            f"wanted a window of {counted(length, 'step')}, got {counted(len(self), 'transition')} whose longest "
            f"episode has {self.engine.index.longest()} with a known next frame; add more, ask for a shorter seq_len, "
            f"or call sample_padded, which fills up what is short"
        )

    def sample_single(self) -> tuple[Frames, Floats, float, float]:
        """Return a copy of one stored transition, each being equally likely: (obs, action, reward, terminal).

        Raises:
            NotEnoughData: nothing is stored yet.
        """
        with self.engine.lock:
            slot = int(self._draw_steps(1)[1][0]) % self.size
            # abs: a truncated step is marked by -0.0, which is nobody's business outside.
            return (
                self.observations[slot].copy(),
                self.actions[slot].copy(),
                float(self.rewards[slot]),
                abs(float(self.terminals[slot])),
            )

    def sample_frames(self, batch_size: int) -> Frames:
        """Return `batch_size` single frames (B, *obs_shape) uint8, each stored one being equally likely.

        Raises:
            NotEnoughData: nothing is stored yet.
            BadSetting: `batch_size` is no positive integer.
        """
        with self.engine.lock:
            return self._frames(self._draw_steps(positive("batch_size", batch_size))[1])

    def sample_with_burn_in(self, batch_size: int, burn_in: int) -> tuple[Frames, Frames]:
        """Return start frames and the frames before them, from inside one episode.

        Args:
            batch_size: start frames to draw, each stored one being equally likely.
            burn_in: frames before each; 0 gives an empty axis.

        Returns:
            start frames (B, *obs_shape), and (B, burn_in, *obs_shape) the frames before, both uint8. A
            short history is padded on the left by its oldest frame, or by the start frame if it is empty.

        Raises:
            NotEnoughData: nothing is stored yet.
            BadSetting: `batch_size` is no positive integer, or `burn_in` no non-negative one.
        """
        count, before = positive("batch_size", batch_size), natural("burn_in", burn_in)

        def draw() -> tuple[Ints, Ints, Ints]:
            rows, ids = self._draw_steps(count, before + 1)
            history = ids[:, None] - np.arange(before, 0, -1)
            return ids, history, np.maximum(history, self.engine.index.live_start(rows)[:, None])

        def agrees(drawn: tuple[Ints, Ints, Ints]) -> bool:
            _, history, shown = drawn
            ends = self.terminals[shown % self.size]
            return not ends.any() or not ends[history == shown].any()

        with self.engine.lock:
            ids, _, shown = self._agreeing(draw, agrees)
            return self._frames(ids), self._frames(shown)

    def _draw_steps(self, count: int, length: int = 1) -> tuple[Ints, Ints]:
        self.engine.layouts.get(False, count, length)  # refuses what is too large
        self.engine.check_open()
        self._settle()
        if len(self) == 0:
            raise NotEnoughData("wanted one stored transition, got an empty buffer; add some first")
        self.engine.memories.drawing()
        return uniform_steps(self.engine.index, self.engine.memories.rng, count)

    def _frames(self, ids: Ints) -> Frames:
        return self.engine.gatherer.values(self._buffer.spec.columns()[0], ids % self.size)
