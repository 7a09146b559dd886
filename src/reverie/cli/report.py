"""The report of `reverie inspect`: what a replay file holds, in words and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from reverie.cli.contents import Facts, contents
from reverie.cli.terminal import table
from reverie.errors import counted, printable
from reverie.index import ENDED
from reverie.store import format_bytes

MOST_OF_A_LINE = 400  # characters of metadata, or of what a sampler remembers
LIFE = "life"  # what the metadata call an episode of an Atari game that ends with a life


def report(path: Path, episodes: int = 5, columns: int | None = None) -> Iterator[str]:
    """Yield the lines of a report about a replay file, of one moment even while a writer goes on.

    Args:
        path: of the file.
        episodes: how many of the newest episodes to list.
        columns: of the terminal that shows it; None if it shows in none.

    Raises:
        FileError: it cannot be opened, or is damaged.
    """
    yield from lines_of(contents(path, episodes), columns)


def lines_of(facts: Facts, columns: int | None = None) -> Iterator[str]:
    """Yield the same of facts that were read before."""
    for part in (_overview(facts), _columns(facts, columns), _streams(facts, columns)):
        yield from map(printable, part)
        yield ""
    yield from _episodes(facts, columns)
    yield ""
    yield from _samplers(facts)


def _overview(facts: Facts) -> Iterator[str]:
    steps, sizes = facts["steps"], facts["bytes"]
    yield f"file        {facts['file']}, a replay file of format version {facts['format']}"
    yield f"state       {facts['state_text']}"
    yield (
        f"steps       {steps['live']:,} live of {steps['capacity']:,}, "
        f"in {counted(len(facts['streams']), 'stream')}; {steps['added']:,} were added in all"
    )
    yield from _counted(facts)
    most = facts["max_bytes"]
    limit = "no limit of bytes" if most is None else f"at most {format_bytes(most)}"
    yield f"kept        residency {facts['residency']}, durability {facts['durability']}, {limit}"
    waiting = f"; {format_bytes(sizes['log'])} more in its log" if sizes["log"] else ""
    yield f"size        {format_bytes(sizes['file'])}, of which {format_bytes(sizes['used'])} in use{waiting}"


def _counted(facts: Facts) -> Iterator[str]:
    """How many episodes there are, and how long and good those that ended were."""
    found, ended = facts["episodes"], facts["ended"]
    kinds = [kind for kind in ENDED if found[kind]]
    told = ", ".join(f"{found[kind]:,} {kind}" for kind in kinds) if len(kinds) > 1 else "".join(kinds)
    parts = [f"{found['ended']:,} ended{f' ({told})' if told else ''}"]
    parts += [f"{found[kind]:,} {kind}" for kind in ("cut", "running") if found[kind]]
    gone = f"; {found['discarded']:,} discarded" if found["discarded"] else ""
    told = f": {', '.join(parts)}" if found["live"] else ""
    yield f"episodes    {found['live']:,} live{told}{gone}"
    if any(episode["metadata"].get("episode_is") == LIFE for episode in facts["newest_episodes"]):
        yield "            here an episode ends with each life, not with the game"
    for name in ("return", "length"):
        if ended[name]:
            over = "the one" if found["ended"] == 1 else f"the {found['ended']:,}"
            mean, least, most = ended[name].values()
            yield (
                f"{name}s     {_shown(mean, ',.2f')} on average over {over} that ended, "
                f"from {_shown(least)} to {_shown(most)}"
            )


def _shown(number: float | None, form: str = ",g") -> str:
    return "not finite" if number is None else format(number, form)


def _columns(facts: Facts, columns: int | None) -> Iterator[str]:
    """A row for each column: what a step takes of it, and what the sealed runs do."""
    rows, total = [], [0, 0, 0]
    for column in facts["columns"]:
        sizes = [column["step_bytes"], column["sealed_bytes"], column["packed_bytes"]]
        total = [sum(pair) for pair in zip(total, sizes, strict=True)]
        rows.append([column["column"], f"{tuple(column['shape'])} {column['dtype']}", *_sizes(*sizes)])
    rows.append(["all", "", *_sizes(*total)])
    head = ["column", "shape and dtype", "a step", "sealed runs", "packed", "smaller"]
    yield from table(head, rows, "<<>>>>", columns)
    beside = facts["beside"]
    yield (
        f"beside them {counted(beside['newest_steps'], 'row')} of newest steps "
        f"({format_bytes(beside['newest_steps_bytes'])}), "
        f"{counted(beside['final_observations'], 'final observation')} "
        f"({format_bytes(beside['final_observations_bytes'])}), "
        f"what samplers remember ({format_bytes(beside['samplers_bytes'])})"
    )


def _sizes(step: int, raw: int, packed: int) -> list[str]:
    times = f"{raw / packed:,.1f}x" if packed else "-"
    return [format_bytes(step), format_bytes(raw), format_bytes(packed), times]


def _streams(facts: Facts, columns: int | None) -> Iterator[str]:
    rows = [
        ["-" if value is None else f"{value:,}" for value in stream.values()] for stream in facts["streams"]
    ]
    head = ["stream", "oldest id", "newest id", "live steps", "live episodes", "begun"]
    yield from table(head, rows, ">>>>>>", columns)


def _episodes(facts: Facts, columns: int | None) -> Iterator[str]:
    """The newest episodes, and what was noted of them."""
    listed = facts["newest_episodes"]
    if not facts["episodes"]["live"]:
        yield "no episode to list"
        return
    rows = [
        [
            *(f"{episode[name]:,}" for name in ("episode", "stream", "first", "last", "steps", "live")),
            _shown(episode["return"], ",.2f"),
            episode["ended"],
            "yes" if episode["final_obs"] else "no",
        ]
        for episode in listed
    ]
    head = ["episode", "stream", "first id", "last id", "steps", "live", "return", "ended", "final obs"]
    if rows:
        yield from table(head, rows, ">>>>>>><<", columns)
    if older := facts["episodes"]["live"] - len(listed):
        yield (
            f"and {counted(older, 'older one')}; "
            f"--episodes {facts['episodes']['live']} lists {'it' if older == 1 else 'them all'}"
        )
    for noted, group in groupby(listed, lambda episode: episode["metadata"]):
        numbers = [episode["episode"] for episode in group]
        if noted:
            to = f"s {numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f" {numbers[0]:,}"
            told = json.dumps(noted, ensure_ascii=False)
            yield printable(f"metadata    episode{to}: {told}", MOST_OF_A_LINE)


def _samplers(facts: Facts) -> Iterator[str]:
    if not facts["samplers"]:
        yield "samplers    none remembers anything"
    for place, sampler in enumerate(facts["samplers"]):
        told = ", ".join(
            f"{name} {value if isinstance(value, (int, str)) else _shown(value, 'g')}"
            for name, value in sampler["state"].items()
        )
        line = f"{'' if place else 'samplers':<12}{sampler['sampler']}{f': {told}' if told else ''}"
        yield printable(line, MOST_OF_A_LINE)
    if facts["samplers_left_out"]:
        yield f"{'':<12}and {facts['samplers_left_out']:,} more"
    if "rate_limit" in facts:
        yield printable(f"rate limit  {facts['rate_limit']['state_text']}", MOST_OF_A_LINE)
