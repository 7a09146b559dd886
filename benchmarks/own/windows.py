"""How long drawing windows of frames takes, beside copying as many bytes window by window."""

from __future__ import annotations

from benchmarks.harness import Copies, Row, in_turn, rows_beside
from benchmarks.own.buffers import pixel_buffer, random_frames

BATCH, LENGTH = 64, 20
STEPS, ADDED = 100_000, 130_000


def pixel_windows(rounds: int) -> list[Row]:
    """Time sample(64, 20) fresh and with out=, beside 64 slice copies from a plain array of as many frames."""
    buffer = pixel_buffer(STEPS, ADDED)
    copies = Copies(random_frames(), STEPS, BATCH, LENGTH)
    out = buffer.sample(BATCH, LENGTH)

    def into_out() -> None:
        buffer.sample(BATCH, LENGTH, out=out)

    kept = [buffer.sample(BATCH, LENGTH)]

    def fresh() -> None:
        # As in a training loop: the last batch is still held while the next one is drawn.
        kept[0] = buffer.sample(BATCH, LENGTH)

    seconds = in_turn(
        {"64 slice copies": copies.slices, "sample(64, 20)": fresh, "sample(64, 20, out=batch)": into_out},
        rounds,
    )
    return rows_beside(
        seconds, "64 slice copies", {"sample(64, 20)": 1.20, "sample(64, 20, out=batch)": 1.08}
    )
