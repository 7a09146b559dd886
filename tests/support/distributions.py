"""Every sampler with its exact distribution, from all episodes or from those that a condition chooses."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

import reverie as rv
from reverie.conformance import Pair
from reverie.index import Anchors
from reverie.testing import mixture, normalised

WEIGHTS = (0.2, 0.3, 0.5)


@dataclass(frozen=True)
class EveryNth:
    """Chooses the episodes whose id, divided by `by`, leaves one of `rests`."""

    by: int
    rests: tuple

    def __call__(self, episodes):
        return np.isin(episodes.ids % self.by, self.rests)

    def holds(self, twin, address):
        """Whether it chooses the episode of a step of the twin."""
        return twin.episode_of(*address).order % self.by in self.rests


def given(where, pair, wanted):
    """Return a distribution given that the anchor lies in an episode that `where` chooses, if it is not None."""
    if where is None:
        return wanted
    return normalised(
        {address: share for address, share in wanted.items() if where.holds(pair.twin, address)}
    )


def p_value(found: dict, wanted: dict) -> float:
    """The chi-square p-value of counted draws; cells of which fewer than 5 are expected are pooled."""
    assert found.keys() <= wanted.keys(), "an anchor came that has no probability"
    total = sum(found.values())
    counts = np.array([found.get(address, 0) for address in wanted], float)
    expected = np.array([total * probability for probability in wanted.values()])
    rare = expected < 5
    if rare.any():
        order = np.argsort(expected)
        pooled = order[: max(int(rare.sum()), int(np.searchsorted(np.cumsum(expected[order]), 5)) + 1)]
        kept = np.setdiff1d(order, pooled)
        counts = np.append(counts[kept], counts[pooled].sum())
        expected = np.append(expected[kept], expected[pooled].sum())
    return 1.0 if len(counts) < 2 else float(stats.chisquare(counts, expected).pvalue)


def draw(pair: Pair, sampler: rv.Sampler, boundary: str, length: int, count: int) -> dict:
    """Draw anchors without touching bytes; return how often each came."""
    drawn = sampler.draw(Anchors(pair.index, boundary, length), pair.rng, count)
    assert len(drawn.ids) == count
    keys = pair.index.stream[drawn.episodes] * 1_000_000 + drawn.ids
    return {divmod(key, 1_000_000): times for key, times in zip(*(part.tolist() for part in np.unique(keys, return_counts=True)), strict=True)}  # fmt: skip


def a_uniform(pair, boundary, length, where=None):
    return rv.Uniform(where=where), given(where, pair, pair.twin.uniform(boundary, length))


def an_episode_uniform(pair, boundary, length, where=None):
    return rv.EpisodeUniform(where=where), given(where, pair, pair.twin.episode_uniform(boundary, length))


def an_episode_uniform_by_age(pair, boundary, length, where=None):
    return rv.EpisodeUniform(WEIGHTS, where=where), given(
        where, pair, pair.twin.episode_uniform(boundary, length, WEIGHTS)
    )


def a_recent_newest(pair, boundary, length, where=None):
    newest = 3 * max(60, 2 * length)
    return rv.Recent(newest, where=where), given(
        where, pair, pair.twin.recent(boundary, length, newest=newest)
    )


def a_recent_half_life(pair, boundary, length, where=None):
    return rv.Recent(half_life=20.5, where=where), given(
        where, pair, pair.twin.recent(boundary, length, half_life=20.5)
    )


def a_prioritized(pair, boundary, length, where=None):
    """With priorities learned over some batches while steps came and went; some steps have none yet."""
    sampler, priorities = rv.Prioritized(0.7, eta=0.4, epsilon=0.01, where=where), {}
    for _ in range(12):
        batch = pair.buffer.sample(60, 1, boundary="pad_right", sampler=sampler)
        errors = pair.rng.choice([-1.0, 0.02, 0.3, 2.5], 60)
        pair.buffer.update_priorities(batch, errors)
        for stream, anchor, error in zip(batch.stream, batch.anchor, errors, strict=True):
            priorities[int(stream), int(anchor)] = abs(error) + 0.01
        # What is added before the first big error enters at 1, after it at 2.51.
        before = set(pair.twin.live_steps())
        highest = max(1.0, *priorities.values())
        for address in before:
            priorities.setdefault(address, 1.0)
        pair.grow(3, 1, 2)
        for address in set(pair.twin.live_steps()) - before:
            priorities[address] = highest
    return sampler, given(where, pair, pair.twin.prioritized(boundary, length, priorities, 0.7))


def a_visit_balanced(pair, boundary, length, by, alpha, where):
    """After batches of several kinds, while steps came and went."""
    sampler, visits = rv.VisitBalanced(alpha, by=by, where=where), {}
    for number in range(8):
        kind = ("pad_right", "inside", "cross")[number % 3]
        for address, times in draw(pair, sampler, kind, 2, 40).items():
            visits[address] = visits.get(address, 0) + times
        pair.grow(3, 1, 2)
    return sampler, given(where, pair, pair.twin.visit_balanced(boundary, length, visits, alpha, by))


def a_visit_balanced_by_episode(pair, boundary, length, where=None):
    return a_visit_balanced(pair, boundary, length, "episode", 1.5, where)


def a_visit_balanced_by_step(pair, boundary, length, where=None):
    return a_visit_balanced(pair, boundary, length, "step", 2.0, where)


def a_fresh(pair, boundary, length, where=None):
    """Once nothing new is left, the fallback's draws come."""
    sampler = rv.Fresh(rv.EpisodeUniform(), where=where)
    draw(pair, sampler, boundary, length, 500)
    return sampler, given(where, pair, pair.twin.episode_uniform(boundary, length))


def a_shuffled(pair, boundary, length, where=None):
    return rv.Shuffled(where=where), given(where, pair, pair.twin.shuffled(boundary, length))


def a_shuffled_in_tiles(pair, boundary, length, where=None):
    return rv.Shuffled(tiles=True, where=where), given(
        where, pair, pair.twin.shuffled(boundary, length, tiles=True)
    )


def a_mixture(pair, boundary, length, where=None):
    parts = [(a_uniform, 1.0), (an_episode_uniform, 0.5), (a_recent_half_life, 2.5)]
    made = [(*make(pair, boundary, length), weight) for make, weight in parts]
    return (
        rv.Mixture([(sampler, weight) for sampler, _, weight in made], where=where),
        mixture([(given(where, pair, wanted), weight) for _, wanted, weight in made]),
    )


CASES = [a_uniform, an_episode_uniform, an_episode_uniform_by_age, a_recent_newest, a_recent_half_life, a_prioritized,
         a_visit_balanced_by_episode, a_visit_balanced_by_step, a_fresh, a_shuffled, a_shuffled_in_tiles,
         a_mixture]  # fmt: skip


def messy(seed: int) -> Pair:
    """Three streams in short episodes: one wrapped twice, one young, one wrapped a little."""
    return Pair(450, 3, mean_length=8, seed=seed).grow(320, 20, 170)
