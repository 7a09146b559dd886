"""Live episodes by number: of all streams, in the order in which they began."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from reverie.index.arrays import NO_EPISODE, IndexArrays


def entry_of(index: IndexArrays, order: int) -> int:
    """Return the live episode of this `order`, or NO_EPISODE: a search in each stream, not a look at all of them."""
    for stream, (low, high) in enumerate(zip(index.dropped.tolist(), index.begun.tolist(), strict=True)):
        ordinal = first_from(index, order, stream, low, high)
        if ordinal < high:
            episode = index.episode_of(stream, ordinal)
            if index.order.item(episode) == order:
                return episode
    return NO_EPISODE


def first_from(index: IndexArrays, order: int, stream: int, low: int, high: int) -> int:
    """Return the first ordinal in `low..high` of a stream's episode that did not begin before `order`."""
    if low >= high or index.order.item(index.episode_of(stream, high - 1)) < order:
        return high
    return low + bisect_left(
        range(low, high), order, key=lambda ordinal: index.order.item(index.episode_of(stream, ordinal))
    )


def place_at_rank(
    index: IndexArrays, first: Sequence[int], begun: Sequence[int], rank: int
) -> tuple[int, int]:
    """Return stream and ordinal of the episode that began after `rank` others.

    Within a stream `order` rises with the ordinal: what is asked for is one element of several sorted lists. A pivot
    from the longest one cuts all of them, until it is the element.

    Args:
        index: of the buffer.
        first, begun: of each stream; the ordinals that count are `first <= ordinal < begun`, all of them live.
        rank: less than there are of them.
    """
    if index.streams == 1:
        return 0, first[0] + rank
    low, high = list(first), [max(one) for one in zip(begun, first, strict=True)]
    if rank == sum(high) - sum(low) - 1:  # the newest one, the last of its stream
        some = np.array([stream for stream, stop in enumerate(high) if stop > low[stream]])
        last = np.array(high)[some] - 1
        newest = index.order[index.episodes_of(some, last)].argmax()
        return some.item(newest), last.item(newest)
    while True:
        widths = [stop - start for start, stop in zip(low, high, strict=True)]
        longest = max(range(len(low)), key=widths.__getitem__)
        pivot = low[longest] + widths[longest] * rank // sum(widths)
        order = index.order.item(index.episode_of(longest, pivot))
        spans = zip(range(len(low)), low, high, strict=True)
        cut = [first_from(index, order, *span) for span in spans]
        below = sum(cut) - sum(low)
        if rank < below:
            high = cut
        elif rank > below:
            rank, low = rank - below - 1, cut
            low[longest] = pivot + 1
        else:
            return longest, pivot
