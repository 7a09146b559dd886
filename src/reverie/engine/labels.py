"""Metadata of episodes: which episode is meant, and what it has then."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from reverie.engine.changes import Changes
from reverie.errors import BadSetting
from reverie.file import label_text
from reverie.index import EpisodeIndex


def annotate(
    index: EpisodeIndex, changes: Changes, stream: int, number: int | None, values: dict[str, Any]
) -> None:
    """Set metadata of the live episode of this number, or of the running one of a stream if it is None.

    What was set before under other names stays. The caller holds the lock of the buffer.

    Raises:
        BadSetting: there is no such episode, or JSON has no such values.
    """
    changes.settle()
    number = _running(index, stream) if number is None else _live(index, number)
    text = label_text({**index.labels.get(number, {}), **values})

    def publish() -> None:
        index.labels[number] = json.loads(text)
        index.edits += 1

    writer = changes.writer
    if writer is None:
        changes.carry_out(publish, None, None)
    else:
        happened = partial(writer.has, partial(writer.file.has_annotated, number, text))
        changes.carry_out(publish, happened, partial(writer.file.annotate, number, text))


def _running(index: EpisodeIndex, stream: int) -> int:
    episode = index.open_episode.item(stream)
    if episode < 0:
        raise BadSetting(
            f"annotate: wanted a running episode of stream {stream}, got none; call it after the episode's first step "
            f"and before its end, or pass episode=, one of buffer.episodes.ids"
        )
    return index.order.item(episode)


def _live(index: EpisodeIndex, number: int) -> int:
    newest = np.array(
        [index.episode_of(stream, begun - 1) for stream, begun in enumerate(index.begun.tolist())]
    )
    if number in index.order[newest[(index.begun > index.dropped)]]:
        return number  # the commonest case, without a look at all of them
    if number not in index.order[index.live_episodes()]:
        raise BadSetting(
            f"episode: wanted one of buffer.episodes.ids, got {number}; it never was, or has been evicted"
        )
    return number
