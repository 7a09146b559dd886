"""The pictures of `reverie film`: an episode of a replay file as a GIF, or as a PNG with its frames side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reverie.errors import BadSetting, counted, printable
from reverie.file import View, viewing
from reverie.index import CUT, ENDED_NAMES, NO_FINAL, RUNNING, discarded
from reverie.pictures import (
    ANIMATION,
    INK,
    PAPER,
    Colour,
    Frames,
    Sheet,
    check_picture,
    save_animation,
    width_of,
    writing_picture,
)
from reverie.spec import Column

SIDE = 192  # pixels that the longer side of a frame is brought near to; nothing is smoothed
LEAST_WIDTH = 150  # so that captions fit
CAPTION = 40  # height of the two lines below a frame
GAP, TITLE = 8, 36
MOST_TILES, MOST_FRAMES = 60, 1_000  # of a PNG, of a GIF: then steps are left out, evenly
MOST_SIDE, MOST_PIXELS = 8_192, 4_000_000  # of a frame
GIF_PIXELS, PNG_PIXELS = 36_000_000, 12_000_000  # of all frames together; then steps are left out, too
END_MS = 1_500  # how long a GIF shows the last frame
FAINT = (225, 225, 225)  # below frames where nothing happens
GAIN, LOSS, END = (30, 120, 50), (180, 40, 40), (40, 70, 150)  # below frames with a reward, and the last one


class Shot(NamedTuple):
    """One picture of a film."""

    frame: Frames  # (height, width) or (height, width, 3)
    lines: tuple[str, str]
    mark: Colour | None  # the colour of the caption, where something happens


def film(
    path: Path,
    number: int | None = None,
    out: Path | None = None,
    column: str | None = None,
    every: int | None = None,
    fps: float = 15.0,
    force: bool = False,
) -> str:
    """Make a picture of an episode, and return what it shows in words.

    Below each frame stand the id of its step, the reward that came after it, and the sum up to there. The
    observation after the last step, if it was recorded, comes last and tells how the episode ended.

    Args:
        path: of the replay file.
        number: of the episode, counted over all streams as they began; -1 is the newest. None: the newest that ended,
            or where none has, the newest.
        out: a name that ends in .gif or .png; None: a GIF in the current folder, named after file and episode.
        column: the observation to show, if several are frames.
        every: show one of so many steps, with the rewards of all of them; None: each step, as far as they fit.
        fps: frames of a GIF in a second.
        force: a picture that is there already is replaced.

    Raises:
        BadSetting: there is no such episode or column, not all of its steps are live, or a bad argument.
        FileError: the file cannot be opened, or is damaged; or the picture cannot be written.
    """
    _check_asked(every, fps)
    if out is not None:
        check_picture(out, force=force)
    with viewing(path) as view:
        row = _row_of(view, number)
        number = view.index.order.item(row)
        out = Path(f"{path.stem}-{number}{ANIMATION}") if out is None else out
        animated = out.suffix.lower() == ANIMATION
        chosen = _image_column(view, column)
        pixels = _pixels(chosen)
        steps = view.index.stop.item(row) - view.index.start.item(row)
        if every is None:
            most, room = (MOST_FRAMES, GIF_PIXELS) if animated else (MOST_TILES, PNG_PIXELS)
            every = math.ceil(steps / min(most, room // pixels))
        title = _title(view, row, number)
        with view.file.db.reading():
            shots = list(_shots(view, row, chosen, every))
    heading = printable(f"{path.name}: {title}")
    with writing_picture(out, force=force) as draft:
        if animated:
            _animate(draft, shots, heading, fps)
        else:
            _lay_out(draft, shots, heading)
    left_out = "" if every == 1 else f", one of each {every} steps"
    return f"{out}: {counted(len(shots), 'frame')} of {chosen.name!r}{left_out}; {title}"


def _check_asked(every: int | None, fps: float) -> None:
    if every is not None and every < 1:
        raise BadSetting(f"every: wanted at least 1, got {every}; 1 shows every step")
    if not 0.1 <= fps <= 50:
        raise BadSetting(f"fps: wanted 0.1 to 50, got {fps:g}; viewers of GIFs cannot do more")


def _row_of(view: View, number: int | None) -> int:
    """Return the row of an episode whose steps are all live."""
    index = view.index
    rows = index.live_episodes()
    rows = rows[~discarded(index, rows)]
    orders = index.order[rows].tolist()
    if not orders:
        asked = "" if number is None else f"{number} of "
        raise BadSetting(
            f"episode: wanted one of a file that holds episodes, got {asked}an empty one; record some first"
        )
    if number is None:
        ended = np.flatnonzero(~np.isin(index.ended[rows], (RUNNING, CUT)))
        return _whole(view, int(rows[ended[-1] if len(ended) else -1]))
    if number < 0 and -number <= len(orders):
        return _whole(view, int(rows[number]))
    if number not in orders:
        live = "the 1 that is" if len(orders) == 1 else f"the {len(orders):,} that are"
        raise BadSetting(
            f"episode: wanted one of {live} live, numbered {orders[0]} to {orders[-1]}, "
            f"got {number}; reverie inspect lists them"
        )
    return _whole(view, int(rows[orders.index(number)]))


def _whole(view: View, row: int) -> int:
    """Return the row of an episode; refuse one whose first steps are evicted."""
    index = view.index
    tail = index.tail.item(index.stream.item(row))
    start, stop = index.start.item(row), index.stop.item(row)
    if start < tail:
        raise BadSetting(
            f"episode {index.order.item(row)}: wanted all of its {stop - start:,} steps, got the last "
            f"{stop - tail:,}, since the others are evicted; choose a later one, or keep more with a larger capacity"
        )
    return row


def _image_column(view: View, wanted: str | None) -> Column:
    obs = [column for column in view.settings.stored if column.is_obs]
    images = [column for column in obs if _is_image(column)]
    told = ", ".join(f"{column.name} {column.field.shape} {column.field.dtype}" for column in obs)
    names = [column.name for column in images]
    if wanted is None and len(images) == 1:
        return images[0]
    if not images:
        raise BadSetting(
            f"wanted an observation of frames, uint8 of (1 or 3, height, width) or (height, width, 1 or 3), "
            f"got {told}; film shows frames alone"
        )
    if wanted is None:
        raise BadSetting(f"column: wanted one of {names}, got none; choose the frames to show with --column")
    if wanted not in names:
        raise BadSetting(f"column: wanted one of {names}, got {wanted!r}; the file has {told}")
    return images[names.index(wanted)]


def _pixels(column: Column) -> int:
    """Return the pixels of a frame; refuse those too large for a picture."""
    shape = column.field.shape
    height, width = shape[1:] if len(shape) == 3 and shape[0] in (1, 3) else shape[:2]
    if max(height, width) > MOST_SIDE or height * width > MOST_PIXELS:
        raise BadSetting(
            f"column: wanted frames of at most {MOST_PIXELS:,} pixels and {MOST_SIDE:,} to a side, got {shape}; "
            f"choose another with --column"
        )
    return height * width


def _is_image(column: Column) -> bool:
    shape = column.field.shape
    colours = len(shape) == 2 or (len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)))
    return column.field.dtype == np.uint8 and colours


def _plain(frame: Frames) -> Frames:
    """Return a frame as (height, width) or (height, width, 3)."""
    if frame.ndim == 3 and frame.shape[0] in (1, 3):
        frame = np.moveaxis(frame, 0, -1)
    return frame[..., 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame


def _title(view: View, row: int, number: int) -> str:
    index = view.index
    ended = ENDED_NAMES[index.ended.item(row)]
    return (
        f"episode {number} of stream {index.stream.item(row)}, steps {index.start.item(row):,} to "
        f"{index.stop.item(row) - 1:,}, return {index.total.item(row):g}, {ended}"
    )


def _shots(view: View, row: int, column: Column, every: int) -> Iterator[Shot]:
    index = view.index
    ids = np.arange(index.start[row], index.stop[row])
    slots = index.stream.item(row) * index.capacity + ids % index.capacity
    rewards = np.empty(len(ids), np.float32)
    view.store.gather("reward", slots, rewards)
    shown = slots[::every]
    frames = np.empty((len(shown), *column.field.shape), np.uint8)
    view.store.gather(column.name, shown, frames)
    total = 0.0
    for place, frame in enumerate(frames):
        reward = float(rewards[place * every : (place + 1) * every].sum(dtype=np.float64))
        total += reward
        mark = None if not reward else GAIN if reward > 0 else LOSS
        gained = f"reward {reward:+.4g}, sum {total:.4g}" if reward else f"sum {total:.4g}"
        yield Shot(_plain(frame), (f"step {ids[place * every]:,}", gained), mark)
    ended, final = index.ended.item(row), index.final_slot.item(row)
    if ended == RUNNING:
        return
    if final == NO_FINAL:  # the last frame again, since an end must be seen
        yield Shot(_plain(frames[-1]) // 2, (ENDED_NAMES[ended], "not known what came after"), END)
    else:
        after = view.finals.gather(column.name, np.array([final]))[0]
        yield Shot(_plain(after), (ENDED_NAMES[ended], f"final observation, sum {total:.4g}"), END)


def _tile(shot: Shot) -> Sheet:
    """Return a shot with its caption."""
    height, width = shot.frame.shape[:2]
    scale = max(1, round(SIDE / max(height, width)))
    height, width = scale * height, scale * width
    room = max(width, LEAST_WIDTH)
    tile = Sheet(room, height + CAPTION, FAINT if shot.mark is None else shot.mark)
    tile.fill(PAPER, 0, 0, room, height)
    tile.show(shot.frame, (room - width) // 2, 0, scale=scale)
    ink = INK if shot.mark is None else PAPER
    for line, text in enumerate(shot.lines):
        tile.write(text, 6, height + 12 + 17 * line, size=13, ink=ink)
    return tile


def _animate(out: Path, shots: Sequence[Shot], title: str, fps: float) -> None:
    # A GIF counts in hundredths of a second.
    durations = [10 * round(100 / fps)] * (len(shots) - 1) + [END_MS]
    save_animation(out, map(_tile, shots), durations, title)


def _lay_out(out: Path, shots: Sequence[Shot], title: str) -> None:
    tiles = [_tile(shot) for shot in shots]
    width, height = tiles[0].image.width + GAP, tiles[0].image.height + GAP
    columns = min(len(tiles), max(3, math.ceil(math.sqrt(1.6 * len(tiles) * height / width))))
    size = max(GAP + columns * width, math.ceil(width_of(title)) + 2 * GAP)
    sheet = Sheet(size, TITLE + math.ceil(len(tiles) / columns) * height)
    sheet.write(title, GAP, TITLE // 2)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, GAP + place % columns * width, TITLE + place // columns * height)
    sheet.save(out)
