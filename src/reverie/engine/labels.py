"""Metadata of episodes: which episode is meant, and what it has then. To be discarded is metadata, too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from reverie.engine.changes import Changes
from reverie.errors import BadSetting
from reverie.file import label_text
from reverie.index import DISCARDED, NO_EPISODE, RESERVED, EpisodeIndex, entry_of

FEW = 64  # episodes that are looked for one by one; of more, all that are live are gone through once


def annotate(
    index: EpisodeIndex, changes: Changes, stream: int, number: int | None, values: Mapping[str, Any]
) -> None:
    """Set metadata of the live episode of this number, or of the running one of a stream if it is None.

    What was set before under other names stays. The caller holds the lock of the buffer.

    Raises:
        BadSetting: there is no such episode, or JSON has no such values, or a name is reserved.
    """
    changes.settle()
    for name in values:
        if name.startswith(RESERVED):
            raise BadSetting(
                f"annotate: wanted names that do not begin with {RESERVED!r}, which are reserved, got {name!r}; "
                f"choose another name"
            )
    if number is None:
        number = _running(index, stream)
    else:
        _check_live(index, [number])
    _set(index, changes, {number: {**index.labels.get(number, {}), **values}})


def discard(index: EpisodeIndex, changes: Changes, numbers: Sequence[int]) -> None:
    """Take live episodes that have ended out for good, all or none. The caller holds the lock of the buffer.

    Raises:
        BadSetting: one of them is not live, or runs.
    """
    changes.settle()
    _check_live(index, numbers)
    for stream in np.flatnonzero(index.open_episode >= 0).tolist():
        if index.newest(stream) in numbers:
            raise BadSetting(
                f"discard: wanted episodes that have ended, got {index.newest(stream)}, which runs in stream {stream}; "
                f"end it first with buffer.cut({stream})"
            )
    if numbers:
        _set(
            index, changes, {number: {**index.labels.get(number, {}), DISCARDED: True} for number in numbers}
        )


def _set(index: EpisodeIndex, changes: Changes, labels: Mapping[int, Mapping[str, Any]]) -> None:
    """Set all metadata of these episodes, in the file and in memory."""
    texts = {number: label_text(label) for number, label in labels.items()}
    parsed = {number: json.loads(text) for number, text in texts.items()}

    def publish() -> None:
        index.label(parsed)

    writer = changes.writer
    if writer is None:
        changes.carry_out(publish, None, None)
    else:
        happened = partial(writer.has, partial(writer.file.has_labelled, texts))
        changes.carry_out(publish, happened, partial(writer.file.label_all, texts))


def _running(index: EpisodeIndex, stream: int) -> int:
    episode = index.open_episode.item(stream)
    if episode < 0:
        raise BadSetting(
            f"annotate: wanted a running episode of stream {stream}, got none; call it after the episode's first step "
            f"and before its end, or pass episode=, one of buffer.episodes.ids"
        )
    return index.order.item(episode)


def _check_live(index: EpisodeIndex, numbers: Sequence[int]) -> None:
    if len(numbers) <= FEW:
        live = {number for number in numbers if entry_of(index, number) != NO_EPISODE}
    else:
        live = set(index.order[index.live_episodes()].tolist())
    for number in numbers:
        if number not in live or number in index.gone:
            raise BadSetting(
                f"episode: wanted one of buffer.episodes.ids, got {number}; it never was, was discarded, or has been "
                f"evicted"
            )
