"""Copies of a buffer as replay files: whole ones first, and afterwards only what has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from reverie.errors import FileTaken
from reverie.file.floors import put_floors, read_floors
from reverie.file.labels import label_text
from reverie.file.lock import discard_left, put_in_place
from reverie.file.place import BESIDE_COPY, discard, inode, is_there, path_errors, sync_folder, vacant
from reverie.file.records import RunRecord
from reverie.file.replay import ReplayFile, fits_tables, make_file, read_settings
from reverie.file.settings import SETTINGS, Settings
from reverie.file.state import Remembered, generator_from
from reverie.file.writer import Writer
from reverie.process import amid


@contextmanager
def snapshot(path: Path) -> Iterator[ReplayFile]:
    """Read a replay file as it is at this moment, whatever a writer does meanwhile."""
    # A flush waits until nobody reads an older moment.
    with amid(), closing(ReplayFile.open(path, "r")) as source:
        source.db.begin()
        yield source


def copy_file(source: ReplayFile, path: Path, ends: list[list[int]]) -> None:
    """Make `path` a copy of a replay file.

    Args:
        source: in a snapshot.
        path: of the copy.
        ends: tails and heads of its streams; empty if they are not known.
    """
    if is_there(path) and inode(path) == inode(source.db.place):
        raise FileTaken(
            f"{path}: wanted another path than the buffer's own, got that one; flush keeps it whole"
        )
    settings, rng = read_settings(source, None)
    identity = source.meta("identity")
    with _target(path, identity, settings, lambda draft: make_file(draft, settings, rng, identity)) as target:
        have, wanted = dict(_by_number(target)), dict(_by_number(source))
        _check_heads(source, ends)
        for number in have.keys() - wanted.keys():
            target.drop_run(number)
        for number, run in wanted.items():
            if have.get(number) != run:
                target.put_run(*source.run(number))
        for stream in range(settings.streams):
            target.drop_steps(stream)
        for step in source.steps():
            target.put_step(step)
        episodes = source.episodes()
        known = {episode.number: episode for episode in target.episodes()}
        target.drop_other_episodes({episode.number for episode in episodes})
        for episode in episodes:
            if known.get(episode.number) != episode:
                target.put_episode(episode)
        for number, label in source.labels().items():
            target.put_label(number, label_text(label))
        for name in (*SETTINGS, "rng", "samplers", "notes"):
            target.put_meta(name, source.meta(name))
        target.put_meta("ends", ends)
        put_floors(target, read_floors(source, settings.streams))
        target.put_arrays(source.arrays())


def copy_memory(
    path: Path,
    identity: str,
    settings: Settings,
    remembered: Remembered,
    writer_of: Callable[[ReplayFile], Writer],
) -> None:
    """Make `path` a copy of a buffer that has no file. The caller sees to it that nothing changes meanwhile.

    Args:
        path: of the copy.
        identity: of the buffer.
        settings: of the buffer.
        remembered: what it knows beside steps and episodes.
        writer_of: returns its writer for a file.
    """
    rng = generator_from(remembered[0]["rng"])
    with _target(path, identity, settings, lambda draft: make_file(draft, settings, rng, identity)) as target:
        writer_of(target).put_all(remembered)


def _check_heads(source: ReplayFile, ends: list[list[int]]) -> None:
    """Refuse a file that has other newest steps than the buffer that keeps it: something was copied over it."""
    runs, steps = source.stops()
    heads = [max(runs.get(stream, 0), steps.get(stream, 0)) for stream in range(len(ends[1]) if ends else 0)]
    if ends and heads != ends[1]:
        raise source.db.damaged("its newest steps are others than those that were written")


def _by_number(file: ReplayFile) -> Iterator[tuple[int, tuple[RunRecord, bytes]]]:
    return ((run.number, (run, crcs)) for run, crcs in file.runs())


@contextmanager
def _target(
    path: Path, identity: str, settings: Settings, make: Callable[[Path], ReplayFile]
) -> Iterator[ReplayFile]:
    """Yield the copy at `path`, open for writing inside of one transaction, or a new one that then goes there."""
    if is_there(path):
        with closing(ReplayFile.open(path, "r+")) as target:
            target.db.limit_row(settings.most_record_bytes)
            if target.meta("copy_of", "-") != identity or not fits_tables(settings, target):
                raise FileTaken(
                    f"{path}: wanted a free path or a copy that this buffer saved there, got another file; "
                    f"choose another path"
                )
            with target.db.syncing():
                yield target
                target.put_meta("clean", True)
        return
    place = vacant(path, BESIDE_COPY)
    # Filled beside its place and then linked there: whoever is killed meanwhile leaves no half copy.
    draft = place.with_name(f"{place.name}.saving-{os.getpid()}")
    try:
        with path_errors(path, "to write a copy"):
            discard_left(place.parent, f"{place.name}.saving-")
            with closing(make(draft)) as target, target.db.drafting():
                yield target
            put_in_place(draft, path, place).release()
            sync_folder(place.parent)
    except FileExistsError as error:
        raise FileTaken(
            f"{path}: wanted a free path, got one taken meanwhile; choose another path"
        ) from error
    finally:
        discard(draft)
