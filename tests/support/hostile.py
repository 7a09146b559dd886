"""Replay files that somebody made to do harm: changes of good ones, and a process that tries them under limits.

`python hostile.py FOLDER SEED FIRST COUNT` makes files FIRST to FIRST + COUNT - 1 of a seed from the good ones in
FOLDER, does with each what a user would, and prints what went wrong, one JSON line each.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import resource
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

import reverie as rv
from reverie.cli.pictures import film
from reverie.cli.report import report
from reverie.file.records import EPISODE_FORM, RUN_FORM, STEP_FORM, array_checksum, checksums, text_checksum
from reverie.file.verify import verify_file
from reverie.values import tree_build

MOST_BYTES = 300 << 20  # of memory, beyond what an interpreter with the package in it takes
MOST_S = 2.0  # of a processor, for everything that is done with one file

FORMS = {"runs": (RUN_FORM, 4), "steps": (STEP_FORM, 4), "episodes": (EPISODE_FORM, 7)}
# What keeps a file that was changed already from being changed once more.
UNCHANGED = (
    sqlite3.Error,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    AttributeError,
    RecursionError,
)
INTEGERS = [-1, 0, 1, 2, 3, 5, 7, 31, 32, 33, 40, 64, 100, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**48, 2**61,
            2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**31), 10**400]  # fmt: skip
PLAIN = [None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "obs", "reward", "ram", "disk", "cross",
         "\x1b[31mred\x07", "\u202egnp.exe", "\ud800", "a" * 100_000, "<f8 9999999999", [], {}, [[]], {"": {}}]  # fmt: skip
TEXTS = ["", "{", "[" * 100_000, "[" * 600 + "]" * 600, '{"a":' * 900 + "1" + "}" * 900, "nul", "NaN", "1e999", "9" * 5000,
         "[" + "0," * 500_000 + "0]", "[" + "[]," * 300_000 + "[]]", '"' + "x" * 3_000_000 + '"', "\x00", '"\\ud800"']  # fmt: skip
BOMBS = [
    b"\1" + zstandard.ZstdCompressor(write_content_size=told).compress(bytes(size))
    for size in (1 << 16, 1 << 24, 1 << 28) for told in (False, True)
]  # fmt: skip


# --- good files --------------------------------------------------------------------------------------------


def make_good(folder: Path) -> None:
    """Write the files that are changed: of everything something, small."""
    nested = rv.StepSpec({"frame": rv.Field((3, 16, 16), "uint8"), "low": rv.Field((2,), "float32")},
                         rv.Field((), "int64"), {"seen": rv.Field((), "bool")})  # fmt: skip
    plain = rv.StepSpec(rv.Field((16, 16), "uint8"), rv.Field((2,), "float32"))
    for name, spec, settings in (
        ("nested", nested, {"capacity": 200, "streams": 2, "residency": "packed"}),
        ("plain", plain, {"capacity": 100, "residency": "ram"}),
        ("disk", plain, {"capacity": 96, "residency": "disk", "max_bytes": 3_000_000}),
        ("chunk", plain, {"capacity": 100, "durability": "chunk"}),
        ("empty", nested, {"capacity": 64, "streams": 2}),
    ):
        with rv.ReplayBuffer(spec, seed=0, path=folder / f"{name}.replay", **settings) as buffer:
            for step in range(0 if name == "empty" else 130):
                for stream in range(buffer.streams):
                    ends = step % 17 == 16
                    obs = tree_build("obs", spec.obs, _zeros(spec, step))
                    extras = {extra: np.bool_(step % 2) for extra in spec.extras}
                    buffer.add(obs=obs, action=np.zeros(spec.action.shape, spec.action.dtype), reward=0.1 * step,
                               terminated=ends, truncated=False, stream=stream, final_obs=obs if ends and step % 3 else None,
                               **extras)  # fmt: skip
            for sampler in samplers() if len(buffer) else ():
                buffer.sample(3, 2, sampler=sampler)
    with rv.IRISReplayBuffer(
        60, (3, 8, 8), 4, seq_len=3, batch_size=2, seed=0, path=folder / "iris.replay"
    ) as iris:
        for step in range(90):
            iris.add(np.full((3, 8, 8), step, np.uint8), step % 4, 1.0, step % 11 == 10)


def samplers() -> list[rv.Sampler]:
    """One of each kind that remembers something."""
    return [rv.Prioritized(), rv.VisitBalanced(), rv.VisitBalanced(by="step"), rv.Fresh(), rv.Shuffled(),
            rv.Mixture([(rv.Prioritized(), 1.0), (rv.Shuffled(tiles=True), 1.0)])]  # fmt: skip


def _zeros(spec: rv.StepSpec, value: int) -> dict[str, Any]:
    return {
        column.name: np.full(column.field.shape, value % 100, column.field.dtype) for column in spec.columns()
    }


# --- changes -----------------------------------------------------------------------------------------------


def spoil(path: Path, dice: random.Random) -> str:
    """Change a good file in one place or a few; return what was done."""
    done = []
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        change = dice.choice(
            [_meta, _meta, _meta, _meta, _array, _array, _row, _row, _row, _schema, _bytes, _bytes]
        )
        if change is _bytes:
            done.append(_bytes(path, dice))
            continue
        with contextlib.closing(sqlite3.connect(path)) as connection, contextlib.suppress(*UNCHANGED):
            connection.execute("PRAGMA synchronous = OFF")
            with connection:
                done.append(change(connection, dice))
    return "; ".join(done)


def _value(dice: random.Random) -> Any:
    if dice.random() < 0.1:
        return [dice.choice(INTEGERS) for _ in range(dice.choice([2, 4, 1000]))]
    return dice.choice(INTEGERS if dice.random() < 0.6 else PLAIN)


def _meta(connection: sqlite3.Connection, dice: random.Random) -> str:
    name, text = dice.choice(connection.execute("SELECT name, value FROM meta").fetchall())
    if dice.random() < 0.15:
        text = dice.choice(TEXTS)
        what = "text"
    elif dice.random() < 0.05:
        connection.execute("DELETE FROM meta WHERE name = ?", (name,))
        return f"meta {name}: gone"
    else:
        value = {"all": json.loads(text)}
        what = _change_inside(value, dice)
        text = json.dumps(value.get("all"))
    name_there, checksum = name, text_checksum(name, text) if text.isascii() else 0
    connection.execute("UPDATE meta SET value = ?, checksum = ? WHERE name = ?", (text, checksum, name_there))
    return f"meta {name}: {what}"


def _change_inside(value: Any, dice: random.Random) -> str:
    """Change one value in lists and dicts within each other."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            key: Any = "array" if isinstance(value, dict) else 0
            if isinstance(value, dict):
                value[key] = _value(dice)
            else:
                value.append(_value(dice))
            return "something in what was empty"
        key = dice.choice(keys)
        if not isinstance(value[key], (dict, list)) or dice.random() < 0.2:
            break
        value = value[key]
    kind = dice.random()
    if kind < 0.1:
        del value[key]
    elif kind < 0.2 and isinstance(value, dict):
        value[str(_value(dice))[:50]] = value.pop(key)
    elif kind < 0.3 and isinstance(value, list):
        value.append(value[key])
    else:
        value[key] = _value(dice)
    return f"at {key}"


def _blob(dice: random.Random, old: bytes) -> Any:
    """Return something to put in a blob's place."""
    kind = dice.randrange(9)
    compressor = zstandard.ZstdCompressor(write_content_size=dice.random() < 0.5)
    if kind == 0:  # a bomb
        return dice.choice(BOMBS)
    if kind == 1:  # a frame that claims to be long
        frame = bytearray(zstandard.ZstdCompressor().compress(bytes(1 << 17)))
        frame[4] |= 0xC0
        return b"\1" + bytes(frame[:5]) + dice.randbytes(8) + bytes(frame[6:])
    if kind == 2:
        return old[: dice.randrange(len(old) + 1)]
    if kind == 3:
        return bytes([dice.randrange(256)]) + old[1:]
    if kind == 4:
        return b"\0" + dice.randbytes(max(len(old) - 1, 0))
    if kind == 5:
        return dice.choice(["text", 5, -0.5, b"", b"\0", b"\1", b"\2", "\x00"])
    if kind == 6:
        return b"\2" + compressor.compress(dice.randbytes(64))
    at = dice.randrange(len(old)) if old else 0
    return old[:at] + dice.randbytes(dice.choice([1, 4])) + old[at + 4 :]


def _array(connection: sqlite3.Connection, dice: random.Random) -> str:
    found = connection.execute("SELECT name, form, data FROM arrays").fetchall()
    if not found:
        return "no array"
    name, form, data = dice.choice(found)
    dtype, *shape = form.split(" ")
    kind = dice.randrange(7)
    if kind == 0:
        form = dice.choice(["", "none", "|O 3", "<f8 -1", "<f8 9999999999999", "<f8 0 9999999999999999", "<i8 1e3", f"|V{2**31} 2",
                            f"{dtype} {shape[0] if shape else 1}0", f"<U9 {shape[0] if shape else 1}", dtype, dtype + " 1" * 70,
                            "i4," * 100_000, "<f8 " + "9" * 5000])  # fmt: skip
    elif kind == 1:
        data = _blob(dice, data)
    elif kind == 2:
        connection.execute("DELETE FROM arrays WHERE name = ?", (name,))
        return f"array {name}: gone"
    else:
        size = dice.choice([int(np.prod(list(map(int, shape)))), 0, 1, 5, 100_000])
        values = np.array(
            [dice.choice([*INTEGERS[:20], 2**61, 2**62, -(2**62)]) for _ in range(min(size, 300))] or [0]
        )
        values = np.resize(values, size).astype(dice.choice(["<i8", "<f8", "|b1", "<i4", "|u1"]))
        if values.dtype.kind == "f" and dice.random() < 0.5:
            values[:] = dice.choice([np.nan, np.inf, -1.0, 1e308, 0.0])
        form = " ".join([values.dtype.str, str(size) if dice.random() < 0.5 else f"1 {size}"])
        data = b"\1" + zstandard.ZstdCompressor().compress(values.tobytes())
    checksum = array_checksum(name, form, data) if isinstance(data, bytes) else 0
    connection.execute(
        "UPDATE arrays SET form = ?, data = ?, checksum = ? WHERE name = ?", (form, data, checksum, name)
    )
    return f"array {name}: {form[:40]}"


def _row(connection: sqlite3.Connection, dice: random.Random) -> str:
    table = dice.choice(["runs", "steps", "episodes"])
    form, count = FORMS[table]
    cursor = connection.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    rows = cursor.fetchall()
    if not rows:
        return f"no {table}"
    cells = list(dice.choice(rows))
    number = cells[0]
    kind = dice.random()
    if kind < 0.1:
        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
        return f"{table} {number}: gone"
    if kind < 0.2:
        cells[0] = dice.choice([number + 1, 10**6, 2**62, 0])
    place = dice.choice([*range(count), *range(count + 1, len(cells))] * 2 + [count])
    if place < count:
        near = (
            [cells[place] + change for change in (-1, 1, 32, -32)]
            if isinstance(cells[place], int)
            else [float("inf"), -1e308]
        )
        cells[place] = dice.choice([*near, *INTEGERS[:28], 0.5, "text"])
    else:
        cells[place] = None if dice.random() < 0.2 else _blob(dice, cells[place] or b"")
    if place != count:
        with contextlib.suppress(Exception):  # values that no checksum is of
            cells[count] = checksums(form, cells[:count], cells[count + 1 :])
    if kind > 0.25:
        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * len(cells))})", cells)
    return f"{table} {number}, {names[place]}: {str(cells[place])[:40]}"


def _schema(connection: sqlite3.Connection, dice: random.Random) -> str:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'a' || x name, x value, 0 checksum FROM n"
    sql = dice.choice([
        f"ALTER TABLE meta RENAME TO was; CREATE VIEW meta AS {endless}",
        f"DROP TABLE arrays; CREATE VIEW arrays AS {endless}",
        "DROP TABLE runs", "DROP INDEX episodes_of_stream", "CREATE TABLE more (x)",
        "CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM runs; END",
        "CREATE TRIGGER t AFTER INSERT ON steps BEGIN INSERT INTO steps SELECT * FROM steps; END",
        f"DROP TABLE steps; CREATE VIEW steps AS {endless}",
        "CREATE INDEX many ON runs (number, first)", "ANALYZE",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'runs'",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 2 WHERE name IN ('runs', 'steps')",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = sql || '--' || hex(zeroblob(2000000)) WHERE name = 'runs'",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET type = 'view' WHERE name = 'meta'",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET name = 'meta', tbl_name = 'meta' WHERE name = 'runs'",
        "DROP TABLE meta; CREATE VIRTUAL TABLE meta USING fts5(name, value, checksum)",
        "CREATE TABLE labels (number INTEGER PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL);"
        " PRAGMA user_version = 2; INSERT INTO labels VALUES (0, '{\"a\": 1}', 0)",
        f"CREATE VIEW labels AS {endless}; PRAGMA user_version = 2",
        f"PRAGMA user_version = {dice.choice([0, 2, 3, -1, 2**31 - 1])}", "PRAGMA application_id = 5",
    ])  # fmt: skip
    if dice.random() < 0.2:  # names that are none
        names = dice.choice(
            [["reward", 'obs" FROM meta; --', "action"], ["reward"] * 1000, ["a"] * 1_000_000, ["obs"], []]
        )
        text = json.dumps(names)[: 4 << 20]
        connection.execute("UPDATE meta SET value = ?, checksum = ? WHERE name = 'columns'",
                           (text, text_checksum("columns", text)))  # fmt: skip
        return f"names {text[:60]}"
    connection.executescript(sql)
    return sql[:90]


def _bytes(path: Path, dice: random.Random) -> str:
    whole = bytearray(path.read_bytes())
    page = 4096
    pages = len(whole) // page
    kind = dice.randrange(7)
    if not pages:
        return "no pages"
    if kind == 0:
        whole = whole[: dice.randrange(len(whole))]
    elif kind == 1:
        for _ in range(dice.choice([1, 8])):
            whole[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
    elif kind == 2:  # a page in another's place
        one, other = dice.randrange(pages), dice.randrange(pages)
        whole[one * page : (one + 1) * page] = whole[other * page : (other + 1) * page]
    elif kind == 3:  # a page full of pointers to a page
        one, target, kind_of = (
            dice.randrange(1, max(pages, 2)),
            dice.randrange(1, pages + 1),
            dice.choice([2, 5]),
        )
        cells = 200
        head = (
            bytes([kind_of])
            + bytes(2)
            + cells.to_bytes(2)
            + (page - 5 * cells).to_bytes(2)
            + bytes(1)
            + target.to_bytes(4)
        )
        pointers = b"".join((page - 5 * (place + 1)).to_bytes(2) for place in range(cells))
        content = (head + pointers).ljust(page - 5 * cells, b"\0") + (target.to_bytes(4) + b"\1") * cells
        whole[one * page : (one + 1) * page] = content[:page]
    elif kind == 4:  # in what describes a page
        at = dice.randrange(pages) * page + dice.choice([0, 1, 3, 5, 7, 8, 12, 20])
        whole[at : at + 4] = dice.randbytes(4)
    elif kind == 5:  # the header of the file
        at = dice.randrange(16, 100)
        whole[at : at + dice.choice([1, 4])] = dice.randbytes(dice.choice([1, 4]))
    else:
        whole += dice.randbytes(dice.choice([1, page, 5 * page]))
    path.write_bytes(whole)
    return f"bytes, kind {kind}"


# --- what users do -----------------------------------------------------------------------------------------


def use(path: Path, dice: random.Random) -> str:
    """Do everything with a file that a user may; return how it went. Any other error than those wanted comes out."""
    went = []
    mode = dice.choice(["r", "r", "r+"])
    copy = path.with_name("copy.replay")
    try:
        for line, _ in verify_file(path):
            assert _fits_a_terminal(line)
        went.append("verified")
    except (rv.FileError, rv.TooLarge) as error:
        went.append(_told(error))
    try:
        for line in report(path):
            assert _fits_a_terminal(line)
        went.append("reported")
    except (rv.FileError, rv.TooLarge) as error:
        went.append(_told(error))
    try:
        film(path, dice.randrange(8), path.with_name("film.png"), force=True)
        went.append("shown")
    except (rv.FileError, rv.TooLarge, rv.BadSetting) as error:
        went.append(_told(error))
    try:
        with rv.open(path, dice.choice([None, "ram", "packed", "disk"]), mode) as buffer:
            _use_buffer(buffer, dice)
            buffer.save_as(copy)
        went.append("used")
    except (rv.FileError, rv.TooLarge) as error:
        went.append(_told(error))
    if "iris" in path.name:
        try:
            iris = rv.IRISReplayBuffer.open(path)
            with contextlib.suppress(rv.NotEnoughData, rv.BadSetting, rv.SpecMismatch):
                iris.sample_sequence()
                iris.add(np.zeros(iris.obs_shape, np.uint8), 0, 0.0, True)
            iris.close()
        except (rv.FileError, rv.TooLarge) as error:
            went.append(_told(error))
    return ", ".join(went)


def _use_buffer(buffer: rv.ReplayBuffer, dice: random.Random) -> None:
    assert len(buffer) <= buffer.capacity
    assert len(buffer.episodes) <= len(buffer)
    assert repr(buffer)
    for boundary in ("inside", "pad_right", "pad_left", "pad_both", "cross"):
        with contextlib.suppress(rv.NotEnoughData):
            batch = buffer.sample(4, 2, boundary=boundary)
            assert batch.mask.any()
    for sampler in samplers():
        with contextlib.suppress(rv.NotEnoughData, rv.BadSetting, rv.FileError):
            batch = buffer.sample(
                4, dice.choice([1, 2]), boundary=dice.choice(["inside", "pad_right"]), sampler=sampler
            )
            assert np.isfinite(batch.weight).all()
    with contextlib.suppress(rv.NotEnoughData):
        buffer.sample_steps(3)
    try:
        values = _zeros(buffer.spec, 1)
        extras = {name: values[f"extras/{name}"] for name in buffer.spec.extras}
        buffer.add(obs=tree_build("obs", buffer.spec.obs, values), action=tree_build("action", buffer.spec.action, values),
                   reward=0.0, terminated=True, truncated=False, **extras)  # fmt: skip
        buffer.flush()
    except rv.FileError:
        pass


def _told(error: Exception) -> str:
    text = str(error)
    assert all(word in text for word in ("wanted", "got", ";")), f"an error that says what to do: {text}"
    assert _fits_a_terminal(text)
    return type(error).__name__


def _fits_a_terminal(line: str) -> bool:
    assert line.isprintable(), repr(line)
    assert len(line) < 2_500, line
    return True


def main(folder: Path, seed: int, first: int, count: int) -> None:
    """Try files, and print a line for each that went wrong, and one at the end with what became of all."""
    good = sorted(folder.glob("*.replay"))
    place = folder / f"at-{seed}-{first}"
    place.mkdir()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, held + MOST_BYTES))
    counts: dict[str, int] = {}
    slowest = 0.0
    for number in range(first, first + count):
        print(json.dumps({"begins": number}), flush=True)
        dice = random.Random(f"{seed}/{number}")
        source = dice.choice(good)
        path = place / source.name
        for left in place.iterdir():
            left.unlink()
        shutil.copy(source, path)
        what = "not changed"
        began = time.process_time()
        try:
            what = f"{source.stem}: {spoil(path, dice)}"
            signal.setitimer(
                signal.ITIMER_PROF, 5 * MOST_S
            )  # ends the process: a query of SQLite's cannot be interrupted
            began = time.process_time()
            went = use(path, dice)
            taken = time.process_time() - began
            assert taken < MOST_S, f"it took {taken:.1f} s"
            slowest = max(slowest, taken)
            counts[went] = counts.get(went, 0) + 1
        except BaseException as error:
            print(json.dumps({"number": number, "what": what[:300], "error": repr(error)[:500],
                              "trace": traceback.format_exc()[-2500:]}), flush=True)  # fmt: skip
            del error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if number % 50 == 0:
            gc.collect()
    shutil.rmtree(place)
    used = sum(count for went, count in counts.items() if "used" in went)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"tried": count, "used": used, "slowest_s": slowest, "peak_kb": peak, "counts": counts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
