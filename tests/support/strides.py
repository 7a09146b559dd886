"""What a window with a stride has to show, made of the whole window that it spans, by the rules of semantics.md."""

from dataclasses import fields

import numpy as np

from reverie.batch import ARRAYS, SequenceBatch
from reverie.testing import NaiveRows, NaiveWindow


def span(length: int, stride: int) -> int:
    """Return the steps from the first position to the last one, both included."""
    return (length - 1) * stride + 1


def thinned(whole: NaiveWindow, stride: int) -> NaiveWindow:
    """Return what is shown of a window of all steps."""
    steps = len(whole.mask)
    places = range(0, steps, stride)
    last_real = max(place for place in range(steps) if whole.mask[place])
    thin = NaiveWindow(
        extras={name: [values[place] for place in places] for name, values in whole.extras.items()}
    )
    for name in ("action", "reward", "mask", "train_mask"):
        setattr(thin, name, [getattr(whole, name)[place] for place in places])
    for name in ("terminated", "truncated"):
        # An end belongs to the position before it: its own step, or one that is not shown before the next position.
        setattr(thin, name, [any(getattr(whole, name)[place : place + stride]) for place in places])
    # A beginning belongs to the position behind it.
    thin.is_first = [any(whole.is_first[max(place - stride + 1, 0) : place + 1]) for place in places]
    thin.is_first.append(False)
    for place in [*places, steps]:
        before = steps - 1 if place == steps else place - stride
        if place < steps and whole.mask[place]:
            shown, known = whole.obs[place], True
        elif before >= 0 and whole.mask[before]:
            shown, known = whole.obs[last_real + 1], whole.obs_mask[last_real + 1]
            shown = shown if known else whole.obs[before]
        else:
            shown, known = np.zeros_like(whole.obs[last_real]), False
        thin.obs.append(shown)
        thin.obs_mask.append(known)
    return thin


def thinned_rows(whole: NaiveRows, stride: int) -> NaiveRows:
    """Return what is shown of a window of all rows."""
    places = range(0, len(whole.mask), stride)
    thin = NaiveRows(
        extras={name: [values[place] for place in places] for name, values in whole.extras.items()}
    )
    for name in {field.name for field in fields(NaiveRows)} - {
        "extras",
        "is_first",
        "is_last",
        "is_terminal",
    }:
        setattr(thin, name, [getattr(whole, name)[place] for place in places])
    for place in places:
        thin.is_first.append(any(whole.is_first[max(place - stride + 1, 0) : place + 1]))
        closing = [at for at in range(place, min(place + stride, len(whole.mask))) if whole.is_last[at]]
        thin.is_last.append(bool(closing))
        thin.is_terminal.append(
            bool(closing) and whole.is_terminal[closing[0]]
        )  # the first one is the row's own
    return thin


def assert_shows_thinned(batch, twin, length: int, boundary: str, burn_in: int, stride: int) -> None:
    """Assert that every row of a batch has a valid anchor and shows every `stride`-th step of what the twin says."""
    steps, context = span(length, stride), burn_in * stride
    valid = twin.anchors(boundary, steps)
    for row, (stream, anchor) in enumerate(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)):
        assert (stream, anchor) in valid
        if isinstance(batch, SequenceBatch):
            offset = anchor - batch.start.item(row) - context
            assert offset in range(0, steps, stride), "the anchor is shown"
            wanted = thinned(twin.window(stream, anchor, steps, boundary, context, offset), stride)
        else:
            wanted = thinned_rows(twin.row_window(stream, anchor, steps, context), stride)
        for name in (
            "obs",
            "action",
            *(array.name for array in ARRAYS[type(batch)] if array.more is not None),
        ):
            got = getattr(batch, name)[row]
            assert np.array_equal(got, getattr(wanted, name)), (name, row, got, getattr(wanted, name))
        for name, values in wanted.extras.items():
            assert np.array_equal(batch.extras[name][row], values), name
