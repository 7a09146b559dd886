"""The tables of docs/benchmarks.md, made from the JSON and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.face import DROP_INS, PEERS, VARIANTS

PAGE = "docs/benchmarks.md"
Cell = dict[str, Any]
Found = dict[str, Any]


def digits(value: float) -> str:
    """Return a number with three digits, and no exponent."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:#.3g}"


def timed(unit: float) -> Callable[[Cell], str]:
    """Return how to show a time, in units of so many seconds, and its ratio to the limit."""

    def how(cell: Cell) -> str:
        less = "" if cell.get("steps", 1_000_000) == 1_000_000 else f" ({cell['steps']:,} steps)"
        return f"{digits(cell['seconds'] / unit)} ×{digits(cell['ratio'])}{less}"

    return how


def grown(cell: Cell) -> str:
    """Return the ratio of the growth workload with its two times."""
    less = "" if cell["steps"] == 10_000_000 else f", at {cell['steps']:,} steps"
    return (
        f"×{digits(cell['ratio'])} ({digits(cell['limit_s'] * 1e3)} → {digits(cell['seconds'] * 1e3)}{less})"
    )


def part(name: str) -> Callable[[Cell], str]:
    """Return how to show one half of the saving workload."""
    return lambda cell: f"{digits(cell[name]['seconds'])} ×{digits(cell[name]['ratio'])}"


def share(value: float) -> str:
    """Return a share in percent. A small share is not rounded to none."""
    return "0" if value == 0 else f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def bytes_of(cell: Cell) -> str:
    """Return the bytes taken."""
    return f"{cell['bytes'] / 1e9:.2f} GB"


def chance(cell: Cell) -> str:
    """Return the p-value."""
    if "p" not in cell:
        return "too few draws"
    value = cell["p"]
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def short(cell: Cell) -> str:
    """Return the share of windows with unwritten rows when ten steps are stored."""
    return "refuses, or none" if cell["short"] is None else share(cell["short"])


SPEED = (
    ("64×20 frames, episodes of 500, ms", "pixels_long", timed(1e-3)),
    ("the same, episodes of 30, ms", "pixels_short", timed(1e-3)),
    ("16×64 vectors, ms", "vectors_16x64", timed(1e-3)),
    ("256×8 vectors, ms", "vectors_256x8", timed(1e-3)),
    ("10 thousand → 10 million steps", "growth", grown),
    ("prioritised 64×16 and update, ms", "prioritised", timed(1e-3)),
)
STORE = (
    ("add a frame, µs", "add_pixels", timed(1e-6)),
    ("add a vector, µs", "add_vectors", timed(1e-6)),
    ("16 lanes of frames, µs a step", "lanes_pixels", timed(1e-6)),
    ("16 lanes of vectors, µs a step", "lanes_vectors", timed(1e-6)),
    ("save, s", "saving", part("save")),
    ("reopen, s", "saving", part("load")),
    ("on disk", "saving", bytes_of),
)
RIGHT = (
    ("across an end, unflagged", "correctness", lambda cell: share(cell["crossing"])),
    ("across the write head", "correctness", lambda cell: share(cell["head"])),
    ("next episode's frame as successor", "correctness", lambda cell: share(cell["successor"])),
    ("never-written rows", "correctness", lambda cell: share(cell["unwritten"])),
    ("the same, ten steps stored", "correctness", short),
    ("steps repeated or left out", "correctness", lambda cell: share(cell["broken"])),
    ("p of uniform starts", "correctness", chance),
    ("most drawn / mean", "correctness", lambda cell: digits(cell["most"]) if "most" in cell else "–"),
    ("valid, never drawn", "correctness", lambda cell: share(cell["never"]) if "never" in cell else "–"),
)
DROP_IN = (
    ("a frame, µs", "drop_in_frames", timed(1e-6)),
    ("a transposed frame, µs", "drop_in_transposed", timed(1e-6)),
    ("17 bytes, µs", "drop_in_vectors", timed(1e-6)),
)
TABLES = {"speed": SPEED, "store": STORE, "right": RIGHT}


def show(cell: Cell | None, how: Callable[[Cell], str]) -> str:
    """Return what a cell says: a figure, or a dash where there is none; `show_cannot` says why."""
    if cell is None:
        return "not run"
    return "–" if "cannot" in cell or "failed" in cell else how(cell)


def table(found: Found, columns: tuple[tuple[str, str, Callable[[Cell], str]], ...]) -> list[str]:
    """Return the lines of one table."""
    lines = [
        "| | " + " | ".join(title for title, _, _ in columns) + " |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for variant in VARIANTS:
        missing = found["peers"].get(variant.peer, {}).get("missing")
        if missing:
            cells = ["–"] * len(columns)
        else:
            kept = found["cells"].get(variant.name, {})
            cells = [show(kept.get(workload), how) for _, workload, how in columns]
        lines.append(f"| {variant.name} | " + " | ".join(cells) + " |")
    return lines


def show_versions(found: Found) -> list[str]:
    """Return what was run where."""
    machine = found["machine"]
    named = []
    for peer in PEERS:
        entry = found["peers"].get(peer, {})
        named.append(
            f"{peer} {entry['version']} (NumPy {entry['numpy']})" if "version" in entry else f"{peer} –"
        )
    settings = found["settings"]
    repeats = f"{settings['rounds']} repeats of a call, or as many as {settings['budget']:g} seconds allow"
    where = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    )
    return [f"{where}; {repeats}.", "", "; ".join(named) + "."]


def ratio_of(cell: Cell, title: str) -> float | None:
    """Return the ratio by which a cell of a table of times is compared. None: it has no figure."""
    if "cannot" in cell or "failed" in cell:
        return None
    inner = cell.get({"save, s": "save", "reopen, s": "load"}.get(title, ""), cell)
    ratio: float | None = inner.get("ratio")
    return ratio


def show_ahead(found: Found) -> list[str]:
    """Return one line for each column of times in which others have a smaller ratio than reverie's best one."""
    lines = []
    for title, workload, _ in (*SPEED, *STORE):
        if title == "on disk":
            continue
        cells = {variant: found["cells"].get(variant.name, {}).get(workload, {}) for variant in VARIANTS}
        most = max(cell.get("steps", 0) for cell in cells.values())  # fewer steps are another workload
        ratios = {
            variant: ratio_of(cell, title)
            for variant, cell in cells.items()
            if cell.get("steps", most) == most
        }
        known = {variant: ratio for variant, ratio in ratios.items() if ratio is not None}
        own = [ratio for variant, ratio in known.items() if variant.peer == "reverie"]
        ahead = {
            variant.name: ratio
            for variant, ratio in known.items()
            if variant.peer != "reverie" and own and ratio < min(own)
        }
        if ahead:
            named = ", ".join(
                f"{name} ×{digits(ratio)}" for name, ratio in sorted(ahead.items(), key=lambda kv: kv[1])
            )
            what = title.rsplit(", ", 1)[0]  # without the unit
            lines.append(f"- {what}: {named}; reverie ×{digits(min(own))}")
    return lines


def show_cannot(found: Found) -> list[str]:
    """Return one line for each peer that has a dash in a table, which says why."""
    names = {workload: title for columns in TABLES.values() for title, workload, _ in columns}
    names |= {
        "saving": "saving",
        "correctness": "right or wrong",
        "growth": "growth",
        "pixels_short": "short episodes",
    }
    lines = []
    for variant in VARIANTS:
        why: dict[str, list[str]] = {}
        for workload, cell in found["cells"].get(variant.name, {}).items():
            reason = cell.get("cannot", cell.get("failed"))
            if reason is not None:
                why.setdefault(reason, []).append(names[workload].split(", ")[0])
        missing = found["peers"].get(variant.peer, {}).get("missing")
        if missing:
            why = {f"does not install here: {missing}": []}
        if why:
            told = "; ".join(
                f"{reason} ({', '.join(where)})" if where else reason for reason, where in why.items()
            )
            lines.append(f"- {variant.name}: {told}")
    return lines


def show_drop_in(found: Found) -> list[str]:
    """Return the lines of the table of the classes of one name; the last one compares their ratios."""
    kept = found.get("drop_in", {})
    lines = [
        "| add | " + " | ".join(title for title, _, _ in DROP_IN) + " |",
        "| --- " * (len(DROP_IN) + 1) + "|",
    ]
    for variant in DROP_INS:
        cells = [show(kept.get(variant.name, {}).get(workload), how) for _, workload, how in DROP_IN]
        lines.append(f"| {variant.name} | " + " | ".join(cells) + " |")
    ours, theirs = (kept.get(variant.name, {}) for variant in DROP_INS)
    compared = [
        f"×{digits(ours[workload]['ratio'] / theirs[workload]['ratio'])}"
        if {"ratio"} <= ours.get(workload, {}).keys() & theirs.get(workload, {}).keys()
        else "–"
        for _, workload, _ in DROP_IN
    ]
    return [*lines, "| ours beside theirs | " + " | ".join(compared) + " |"]


def show_tables(found: Found) -> list[str]:
    """Return all tables, for a terminal."""
    lines = show_versions(found)
    for columns in TABLES.values():
        lines += ["", *table(found, columns)]
    return [*lines, "", *show_drop_in(found), "", *show_cannot(found)]


def blocks(found: Found) -> dict[str, str]:
    """Return the generated parts of the page by name."""
    return {
        "versions": "\n".join(show_versions(found)),
        "ahead": "\n".join(show_ahead(found)),
        "cannot": "\n".join(show_cannot(found)),
        "drop_in": "\n".join(show_drop_in(found)),
        **{name: "\n".join(table(found, columns)) for name, columns in TABLES.items()},
    }


def with_blocks(text: str, found: Found) -> str:
    """Return a page with its generated parts put in between their marks."""
    for name, block in blocks(found).items():
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        _, after = rest.split(f"<!-- /{name} -->", 1)
        text = f"{before}<!-- {name} -->\n{block}\n<!-- /{name} -->{after}"
    return text


def put_tables(found: Found, page: Path) -> None:
    """Write the tables into the page."""
    page.write_text(with_blocks(page.read_text(), found))


def read_results(path: Path) -> Found:
    """Return what the JSON holds."""
    kept: Found = json.loads(path.read_text())
    return kept
