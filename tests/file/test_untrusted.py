"""A replay file that nobody vouches for: each thing that it may say wrongly is refused before anything is made from it."""

import json
import os
import shutil
import sqlite3
import threading
import time
import tracemalloc
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from test_verify import change, do, findings, obs, record, set_meta

import reverie as rv
from reverie.cli.pictures import film
from reverie.cli.report import report
from reverie.errors import printable
from reverie.file.lock import writing_process
from reverie.file.records import array_checksum, sql_names, text_checksum
from reverie.file.sqlite import Database
from reverie.file.verify import verify_file
from reverie.store import pack, unpack

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'a' || x name, x value, 0 checksum FROM n"
MANY = {"obs": rv.Field((3, 8, 8), "uint8")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.replay"
    with record(path) as buffer:
        for sampler in (rv.Fresh(), rv.Shuffled(), rv.VisitBalanced(by="step")):
            buffer.sample(4, 3, sampler=sampler)
    return path


@pytest.fixture
def path(whole, tmp_path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "a.replay"))


def refuses(path: Path, match: str = "wanted a whole file, got a damaged one", looks: bool = True) -> None:
    """Assert that the file opens in no way, nor is looked into if `looks`, and that not a byte of it changes."""
    before = path.read_bytes()
    for residency, mode in (("ram", "r"), ("packed", "r+"), ("disk", "r")):
        with pytest.raises(rv.FileError, match=match):
            rv.open(path, residency, mode)
    for look in (
        (lambda: list(report(path)), lambda: film(path, 12, path.with_name("a.png"))) if looks else ()
    ):
        with pytest.raises(rv.FileError, match=match):
            look()
    assert path.read_bytes() == before


def set_text(path: Path, name: str, text: str) -> None:
    do(path, "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", name, text, text_checksum(name, text))


def set_array(path: Path, name: str, form: str, data: bytes) -> None:
    do(
        path,
        "INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?)",
        name,
        form,
        array_checksum(name, form, data),
        data,
    )


def state_of(path: Path) -> dict:
    with closing(sqlite3.connect(path)) as connection:
        return json.loads(connection.execute("SELECT value FROM meta WHERE name = 'rng'").fetchone()[0])


# --- settings and named values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("buffer_pos", -1), ("buffer_pos", 5), ("buffer_pos", 2**31 - 1), ("buffer_pos", 1.0), ("buffer_pos", True),
        ("has_uint32", 2), ("has_uint32", -1), ("uinteger", 2**32), ("uinteger", -1), ("uinteger", None),
        ("counter", [1, 2, 3]), ("counter", [1, 2, 3, -1]), ("counter", [1, 2, 3, 2**64]), ("counter", [1, 2, 3, 0.5]),
        ("counter", 7), ("key", [1]), ("key", [[1], [2]]), ("buffer", [0] * 5), ("buffer", "abcd"), ("buffer", {}),
    ],
)  # fmt: skip
def test_every_field_of_a_generators_state_is_checked(path, field, value):
    """NumPy takes any, and reads from wherever `buffer_pos` says."""
    set_meta(path, "rng", {**state_of(path), field: value})
    refuses(path)
    assert any("meta 'rng': it is no state of a generator" in finding for finding in findings(path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("capacity", 0), ("capacity", -200), ("capacity", 2**62), ("capacity", 200.0), ("capacity", True), ("capacity", None),
        ("capacity", [200]), ("streams", 0), ("streams", -2), ("streams", 2**31), ("streams", "2"), ("streams", 1.0),
        ("run", 0), ("run", 31), ("residency", "tape"), ("residency", []), ("residency", None), ("durability", 1),
        ("max_bytes", 0), ("max_bytes", 1), ("max_bytes", -1), ("max_bytes", 2**62), ("max_bytes", "many"),
        ("spec", {}), ("spec", [1]), ("spec", {"obs": [[3], "O"], "action": [[], "<i8"], "extras": {}}),
        ("spec", {"obs": [[2**62, 2**62], "<f4"], "action": [[], "<i8"], "extras": {}}),
        ("spec", {"obs": [[1] * 100, "<f4"], "action": [[], "<i8"], "extras": {}}),
        ("spec", {"obs": [[3], "f4,f4"], "action": [[], "<i8"], "extras": {}}),
        ("spec", {"obs": [[3], "<f8" * 1_000_000], "action": [[], "<i8"], "extras": {}}),
        ("spec", {"obs": {"../x": [[3], "<f4"]}, "action": [[], "<i8"], "extras": {}}),
        ("spec", {"obs": [[3], "<f4"], "action": [[], "<i8"], "extras": {"a b": [[], "<f4"]}}),
        ("clean", 1), ("ends", [[0], [1]]), ("ends", [[0, 0], [2**62, 1]]), ("ends", [0, 1]), ("ends", "x"),
        ("notes", []), ("samplers", {}), ("samplers", [1]), ("samplers", [["Uniform()"]]), ("samplers", [[1, {}]]),
        ("samplers", [["Uniform()", {"array": "nowhere"}]]), ("samplers", [["Uniform()", {"array": []}]]),
    ],
)  # fmt: skip
def test_named_values_that_cannot_be_are_refused(path, name, value):
    """They are checked like the arguments of whoever makes a buffer, before anything is made from them."""
    set_meta(path, name, value)
    refuses(path, looks=name not in ("notes", "samplers"))
    assert findings(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("synced", [1]), ("synced", -1), ("synced", 2**61), ("rewrites", [1]), ("rewrites", -1), ("rewrites", True),
     ("copy_of", [1])],
)  # fmt: skip
def test_a_named_value_of_another_kind_is_refused_when_it_is_used(path, name, value):
    """What only a writer or a copy needs stops these, and leaves memory with what it had."""
    set_meta(path, name, value)
    with pytest.raises(rv.FileError, match=f"meta {name!r}: wanted a"), rv.open(path) as buffer:
        buffer.save_as(path.with_name("copy.replay"))
    assert any(f"meta {name!r}: wanted a" in finding for finding in findings(path))


def test_an_identity_of_another_kind_is_found_and_kept_out_of_copies(path):
    """A copy is made from memory then, and is whole; `verify` tells what is wrong with the file."""
    set_meta(path, "identity", [1])
    with rv.open(path) as buffer:
        wanted = buffer.episodes.tolist()
        buffer.save_as(path.with_name("copy.replay"))
    assert any("meta 'identity': wanted a" in finding for finding in findings(path))
    assert not findings(path.with_name("copy.replay"))
    with rv.open(path.with_name("copy.replay")) as copy:
        assert copy.episodes.tolist() == wanted


@pytest.mark.parametrize(
    "leaf",
    [[[3], "<f4", "quick"], [[3], "<f4", "cast", "cast"], [[3], "<f4", "finite", "cast"], [[3], "<i4", "cast"],
     [[3], "<f4", None], [[3], "<f4", ["cast"]], [[3]], [[3], "<f4", "cast", "finite", "x"], ["3", "<f4"], 3, "x", None],
)  # fmt: skip
def test_a_leaf_of_a_spec_is_what_was_written_or_none(leaf):
    """Shape, dtype and the options that there are, in their order: what is written comes back, and all else is refused."""
    for options in ({}, {"cast": True}, {"finite": True}, {"cast": True, "finite": True}):
        spec = rv.StepSpec(rv.Field((3,), "float32", **options), rv.Field((), "int64"))
        again = rv.StepSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert again.obs.options == tuple(options)
    with pytest.raises((ValueError, TypeError)):
        rv.StepSpec.from_json({"obs": leaf, "action": [[], "<i8"], "extras": {}})


@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", "[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 500 + "1" + "}" * 500, "9" * 5000, '"' + "x" * 5_000_000 + '"'],
    ids=["empty", "open", "word", "endless", "deep", "deep dict", "digits", "long"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["spec", "notes", "samplers", "columns"])
def test_json_that_is_none_or_too_much_is_refused(path, name, text):
    """No text, none that nests without an end, and none that is as long as it likes."""
    set_text(path, name, text)
    with pytest.raises(rv.FileError, match="restore it from a copy"):
        rv.open(path, mode="r")
    try:
        assert findings(path)
    except rv.FileError:
        assert name == "columns"


def test_samplers_may_not_keep_more_than_can_be_read_again(tmp_path):
    """What no reader would take is refused when it would be written; what was there stays."""

    class Hoarder(rv.Sampler):
        def draw(self, anchors, rng, count):
            return rv.Uniform().draw(anchors, rng, count)

        def save(self):
            return {"much": self.much}

    for much in (np.zeros(20_000_000), "x" * 5_000_000):
        path = tmp_path / f"{type(much).__name__}.replay"
        sampler = Hoarder()
        sampler.much = much
        buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 10, path=path)
        buffer.add(obs=1, action=0, reward=0.0, terminated=True, truncated=False)
        buffer.sample(1, 1, sampler=sampler)
        with pytest.raises(rv.BadSetting, match="wanted at most"):
            buffer.flush()
        sampler.much = 0
        buffer.close()
        with rv.open(path) as again:
            assert len(again) == 1


def test_streams_are_bounded_for_everybody():
    """Nobody can make a buffer that nobody could open again."""
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    with pytest.raises(rv.BadSetting, match="streams: wanted at most 65,536, got 65,537"):
        rv.ReplayBuffer(spec, 65_537, streams=65_537)


# --- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        f"ALTER TABLE meta RENAME TO was; CREATE VIEW meta AS {ENDLESS}",
        f"DROP TABLE meta; CREATE VIEW meta AS {ENDLESS}",
        f"DROP TABLE arrays; CREATE VIEW arrays AS {ENDLESS}",
        "DROP TABLE runs",
        "DROP INDEX episodes_of_stream",
        "CREATE TABLE more (x)",
        "CREATE VIEW more AS SELECT * FROM runs",
        "CREATE TRIGGER t AFTER INSERT ON steps BEGIN DELETE FROM runs; END",
        "CREATE INDEX more ON runs (first)",
        "ANALYZE",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = sql || hex(zeroblob(3000000)) WHERE name = 'runs'",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'runs'",
    ],
)  # fmt: skip
def test_tables_are_compared_before_a_row_is_read(path, sql):
    """Views, triggers and other objects are refused, and what they would do is not begun."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)
    began = time.process_time()
    refuses(path, "restore it from a copy|wanted a whole file")
    with pytest.raises(rv.FileError):
        list(verify_file(path))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "names",
    [["a"] * 1_000_000, ["reward"] * 1000, ["reward", 'obs" FROM meta; --'], ["reward", "obs", "o\x00"], [1], [[]], "obs", [], {}],
    ids=["million", "thousand", "sql", "zero", "number", "list", "text", "none", "dict"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["columns", "obs_columns"])
def test_names_of_columns_are_checked_before_they_are_part_of_sql(path, names, name):
    """Equal ones, too many and such as are none are refused at once."""
    set_text(path, name, json.dumps(names)[: 4 << 20])
    began = time.process_time()
    with pytest.raises(rv.FileError):
        rv.open(path, mode="r")
    assert time.process_time() - began < 2


def test_names_that_differ_in_case_alone_have_numbers():
    """They are numbered in their order, in time that grows with their number alone."""
    assert sql_names(["obs/A", "obs/a", "reward", "OBS/a"]) == [
        '"obs/A"',
        '"obs/a~2"',
        '"reward"',
        '"OBS/a~3"',
    ]
    assert len(set(sql_names(["x"] * 50_000))) == 50_000


def test_a_tree_of_pages_without_an_end_is_left(path):
    """Six pages that each name the next two hundred times are 64 million million rows."""
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
        leaf = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'arrays'").fetchone()[0]
    content, page, cells = bytearray(path.read_bytes()), 4096, 200
    last = len(content) // page
    chain = [root, *range(last + 1, last + 7), leaf]
    content += bytes(6 * page)
    for here, there in pairwise(chain):
        head = b"\5\0\0" + cells.to_bytes(2) + (page - 5 * cells).to_bytes(2) + b"\0" + there.to_bytes(4)
        head += b"".join((page - 5 * (place + 1)).to_bytes(2) for place in range(cells))
        whole = head.ljust(page - 5 * cells, b"\0") + (there.to_bytes(4) + b"\1") * cells
        content[(here - 1) * page : here * page] = whole
    content[28:32] = (last + 6).to_bytes(4)
    path.write_bytes(content)
    began = time.process_time()
    refuses(path, "restore it from a copy|wanted a whole file")
    assert findings(path)
    assert time.process_time() - began < 10  # eight looks at it, and one that looks at everything


def test_a_query_without_an_end_is_stopped(path):
    """Of what goes through a table no more work is done than a file of this size can make."""
    db = Database(path, "r", path)
    began = time.process_time()
    with pytest.raises(rv.FileError, match="its tables go on and on"):
        list(db.each(f"SELECT count(*) FROM ({ENDLESS})"))
    with pytest.raises(rv.FileError, match="its tables go on and on"):  # rows that come in many parts
        for _ in db.each(ENDLESS):
            pass
    assert time.process_time() - began < 4
    assert list(db.each("SELECT count(*) FROM runs")) == [(8,)]
    db.close()


# --- rows --------------------------------------------------------------------------------------------------

LONG = zstandard.ZstdCompressor().compress(bytes(1 << 27))
CLAIMS = b"\x28\xb5\x2f\xfd\xe0" + (100 << 30).to_bytes(8, "little") + LONG[13:]  # says 100 GiB
BOMBS = {
    "bomb": b"\1" + LONG,
    "silent bomb": b"\1" + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 27)),
    "claim": b"\1" + CLAIMS,
    "change": b"\2" + LONG,
    "long": b"\0" + bytes(1 << 20),
}


def draw_often(path: Path, residency: str) -> None:
    """Draw until every step was drawn, final observations included."""
    with rv.open(path, residency, "r") as buffer:
        for _ in range(60):
            buffer.sample(40, 3, boundary="pad_right")


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize(
    ("table", "number", "column"),
    [("runs", 2, "obs__frame"), ("runs", 2, "reward"), ("steps", 5, "obs__frame"), ("steps", 5, "reward"), ("episodes", 12, "final_obs__frame")],
)  # fmt: skip
def test_a_blob_unpacks_to_what_its_column_holds_or_not_at_all(path, table, number, column, kind):
    """Bombs, and frames that claim to be long, are refused for little memory, whenever it is that they are read."""
    change(path, table, number, **{column: BOMBS[kind]})
    tracemalloc.start()
    try:
        for residency in ("ram", "packed", "disk"):
            with pytest.raises(rv.FileError, match="restore"):
                draw_often(path, residency)
        assert any("it does not unpack" in finding for finding in findings(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 << 20


@pytest.mark.parametrize("kind", BOMBS)
def test_an_array_unpacks_to_what_its_form_says_or_not_at_all(path, kind):
    """The same of what samplers remember; and a form that asks for more than a buffer of this size is refused."""
    for form in ("<f8 200", f"<f8 {1 << 26}", f"|u1 {1 << 27}"):
        set_array(path, "samplers/0/steps/weights", form, BOMBS[kind])
        tracemalloc.start()
        try:
            refuses(path, looks=False)
            assert findings(path)
            assert tracemalloc.get_traced_memory()[1] < 60 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "form", ["", "<f8", "|O 25", "<f8 -1", "<f8 1e3", "<f8 25.0", "f4,f4 25", "i4," * 100_000, "<f8 " + "9" * 5000, "<f8" + " 1" * 70,
             f"|V{10**9} 25", "<f8 99999999999999", "<f8  200", "<f8 200 "]
)  # fmt: skip
def test_an_array_has_a_dtype_and_a_shape(path, form):
    """What describes none is refused."""
    set_array(path, "samplers/0/steps/weights", form, pack(np.zeros(200)))
    refuses(path, looks=False)
    assert findings(path)


@pytest.mark.parametrize(
    ("table", "number", "values"),
    [
        ("runs", 2, {"stream": -1}), ("runs", 2, {"stream": 2}), ("runs", 2, {"stream": 2**62}), ("runs", 2, {"first": -36}),
        ("runs", 2, {"first": 2**63 - 64}), ("runs", 2, {"steps": 0}), ("runs", 2, {"steps": 2**62}), ("runs", 2, {"number": 2**62}),
        ("runs", 3, {"first": 196}), ("runs", 3, {"first": 96 + 100 * 2**40}),
        ("steps", 5, {"stream": -1}), ("steps", 5, {"stream": 2}), ("steps", 5, {"id": -1}), ("steps", 5, {"id": 2**63 - 1}),
        ("steps", 5, {"ended": 5}), ("steps", 5, {"ended": -1}), ("steps", 5, {"number": -5}),
        ("episodes", 12, {"stream": -1}), ("episodes", 12, {"stream": 2**31}), ("episodes", 12, {"ordinal": -1}),
        ("episodes", 12, {"ordinal": 2**62}), ("episodes", 12, {"start": -(2**62)}), ("episodes", 12, {"stop": 2**63 - 1}),
        ("episodes", 12, {"stop": 0}), ("episodes", 12, {"ended": 5}), ("episodes", 12, {"ended": 300}), ("episodes", 12, {"total": float("inf")}),
        ("episodes", 12, {"number": -12}), ("episodes", 12, {"number": 2**62}), ("episodes", 12, {"start": 101}), ("episodes", 12, {"ended": 0}),
    ],
)  # fmt: skip
def test_numbers_that_no_buffer_has_are_refused(path, table, number, values):
    """Before anything is computed from them: near the edges of int64 they would overflow, or ask for as much memory."""
    change(path, table, number, **values)
    refuses(path)
    assert findings(path)


def test_a_gap_below_the_oldest_step_is_no_content(tmp_path):
    """Where a stale run hides that a live one is gone, the file is refused: else what memory held before would be drawn."""
    path, spec = tmp_path / "a.replay", rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 100, path=path, seed=0) as buffer:
        for step in range(240):
            buffer.add(obs=step, action=0, reward=0.0, terminated=step % 10 == 9, truncated=False)
    change(path, "runs", 1, first=32)  # it held 132 to 163, of which 140 and later live
    with closing(sqlite3.connect(path)) as connection:
        found = [first for (first,) in connection.execute("SELECT first FROM runs ORDER BY first")]
    assert found == [32, 164, 196, 200]
    set_meta(path, "clean", False)
    set_meta(path, "ends", [])
    refuses(path)


@pytest.mark.parametrize("value", ["text", 7, 0.5])
@pytest.mark.parametrize(("table", "number", "column"), [("runs", 2, "obs/frame"), ("steps", 5, "reward"), ("episodes", 12, "final_obs/low")])  # fmt: skip
def test_values_of_another_kind_are_refused(path, table, number, column, value):
    """SQLite keeps anything in any column."""
    do(path, f'UPDATE {table} SET "{column}" = ? WHERE number = ?', value, number)
    with pytest.raises(rv.FileError, match="restore"), rv.open(path, "ram", "r"):
        pass
    assert findings(path)


def test_rows_of_episodes_are_those_of_a_table(path):
    """Where episodes lay is part of what samplers need; negative, huge and double rows are refused."""
    with closing(sqlite3.connect(path)) as connection:
        form, data = connection.execute("SELECT form, data FROM arrays WHERE name = 'index/row'").fetchone()
    rows = unpack(data, (int(form.split()[1]),), np.dtype(np.int64))
    for wrong in (
        rows - 5,
        rows + 2**40,
        np.full_like(rows, 3),
        rows[:-1],
        rows.astype(np.float64),
        rows[None],
        rows.astype(np.int32),
    ):
        form = " ".join([wrong.dtype.str, *map(str, wrong.shape)])
        set_array(path, "index/row", form, pack(np.ascontiguousarray(wrong)))
        refuses(path, looks=False)


# --- what samplers remember --------------------------------------------------------------------------------


def _states() -> dict[str, tuple]:
    """Samplers, and for each how to spoil what it saved: names on the way to a value, and another value."""
    nan, short = np.full(200, np.nan), np.zeros(7)
    return {
        "Prioritized": (rv.Prioritized, [
            (["highest"], float("nan")), (["highest"], -1.0), (["highest"], "1"), (["highest"], None), (["steps"], 5),
            (["steps", "weights"], nan), (["steps", "weights"], -np.ones(200)), (["steps", "weights"], short),
            (["steps", "weights"], np.full(200, np.inf)), (["steps", "weights"], 1.0), (["steps", "weights"], np.ones((200, 1))),
            (["steps", "barred"], short), (["steps", "barred"], np.zeros(200)), (["steps", "seen"], np.array([-1, 0])),
            (["steps", "seen"], np.zeros(2)), (["steps", "seen"], np.full(2, 2**62)), (["steps", "kind"], ["nowhere", 3]),
            (["steps", "kind"], ["inside"]), (["steps", "kind"], ["inside", "3"]), (["steps", "kind"], [[], 3]),
        ]),
        "VisitBalanced": (rv.VisitBalanced, [
            (["visits"], short - 1), (["visits"], np.zeros(10**6, np.int64)), (["visits"], None), (["episodes"], {}),
            (["episodes", "weights"], np.full(64, np.nan)), (["episodes", "weights"], np.zeros(0)), (["episodes", "weights"], np.ones(10**5)),
            (["episodes", "begun"], np.zeros(3, np.int64)), (["episodes", "begun"], np.array([-1, 0])), (["episodes", "begun"], None),
        ]),
        "by step": (lambda: rv.VisitBalanced(by="step"), [
            (["visits"], np.zeros(3, np.int64)), (["visits"], np.full(200, -1)), (["steps"], {}), (["steps", "weights"], nan),
        ]),
        "Fresh": (rv.Fresh, [
            (["cursor"], np.zeros((2, 9), np.int64)), (["cursor"], np.zeros(4)), (["cursor"], np.full((2, 2), -1)), (["cursor"], 3),
            (["cursor"], np.full((2, 2), 2**62)), (["turn"], -1), (["turn"], 2**64), (["turn"], "0"), (["fallback"], {"a": 1}), (["fallback"], 1),
        ]),
        "Shuffled": (rv.Shuffled, [
            (["counts"], np.full(14, 2**40)), (["counts"], np.full(14, 2**62)), (["counts"], np.zeros(14, np.int64)), (["counts"], np.ones(3, np.int64)),
            (["stream"], np.full(14, 9)), (["stream"], np.full(14, -1)), (["first"], np.full(14, -5)), (["first"], np.ones(14)),
            (["step"], 0), (["step"], 2**64), (["seed"], -1), (["seed"], 2**63), (["seed"], 0.5), (["place"], -1), (["place"], "x"),
        ]),
        "Mixture": (lambda: rv.Mixture([(rv.Prioritized(), 1.0), (rv.Uniform(), 1.0)]), [
            (["parts"], []), (["parts"], 5), (["parts"], [{}, {"a": 1}]), (["parts"], [1, 2]), (["parts"], [{}, {}, {}]),
        ]),
        "Uniform": (rv.Uniform, [(["anything"], 1)]),
    }  # fmt: skip


@pytest.mark.parametrize("name", _states())
def test_a_samplers_state_is_checked_before_it_is_used(name):
    """Names, shapes, dtypes and ranges; a state that is none is refused at the first draw and at every later one."""
    make, wrongs = _states()[name]
    buffer = rv.ReplayBuffer(
        rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), 200, streams=2, seed=0
    )
    for step in range(70):
        for stream in range(2):
            buffer.add(
                obs=step, action=0, reward=0.0, terminated=step % 10 == 9, truncated=False, stream=stream
            )
    first = make()
    for _ in range(3):
        buffer.sample(4, 2, sampler=first)
    good = first.save()
    for way, value in [*wrongs, *([([key], _GONE) for key in good])]:
        state = _replaced(good, way, value)
        sampler = make()
        for _ in range(2):
            with pytest.raises(rv.BadSetting):
                load_and_draw(buffer, sampler, state)
    again = make()
    again.load(good)
    buffer.sample(4, 2, sampler=again)


def load_and_draw(buffer: rv.ReplayBuffer, sampler: rv.Sampler, state: object) -> None:
    sampler.load(state)
    buffer.sample(4, 2, sampler=sampler)


_GONE = object()


def _replaced(state: dict, way: list[str], value: object) -> dict:
    name, *rest = way
    if value is _GONE:
        return {key: child for key, child in state.items() if key != name}
    return {**state, name: _replaced(state[name], rest, value) if rest else value}


@pytest.mark.parametrize("state", [{"highest": 1.0}, {"highest": 1.0, "steps": {"weights": 1}}, [1], 5, "x"])
def test_a_state_that_waits_in_a_file_is_refused_when_its_sampler_comes(path, state):
    """With the file's name and the remedy; the buffer draws with others, and keeps what it could not use."""
    set_meta(path, "samplers", [["Prioritized()", state]])
    with rv.open(path) as buffer:
        for _ in range(2):
            with pytest.raises(
                rv.FileError, match=r"a\.replay: wanted the state of a Prioritized\(\), got one that is none"
            ):
                buffer.sample(4, 2, sampler=rv.Prioritized())
        assert len(buffer.sample(4, 2)) == 4
    with rv.open(path) as buffer, pytest.raises(rv.FileError, match="wanted the state"):
        buffer.sample(4, 2, sampler=rv.Prioritized())


# --- what is printed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain ±Δ…", "plain ±Δ…"), ("\x1b[31mred", "\\x1b[31mred"), ("a\r\nb\tc", "a\\r\\nb\\tc"), ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"), ("\x9b2J", "\\x9b2J"), ("\u2066x\u2069", "\\u2066x\\u2069"), ("\u200b", "\\u200b"), ("\U000e0001", "\\U000e0001"),
    ],
)  # fmt: skip
def test_text_is_made_fit_for_a_terminal(text, wanted):
    """What moves the cursor, turns the direction of writing or is not seen is shown as an escape."""
    assert printable(text) == wanted


def test_long_text_is_cut():
    """The beginning is kept, and what is left out is counted."""
    assert printable("x" * 25, 10) == "xxxxxxxxxx … and 15 more characters"
    assert printable("x" * 10, 10) == "x" * 10


def test_nothing_in_a_file_moves_the_cursor(path):
    """Kinds and states of samplers, their number, the lock's owner: bounded lines of plain characters."""
    evil = "\x1b[2J\u202e" + "z" * 10_000
    set_meta(
        path,
        "samplers",
        [[evil, {evil: evil, "n": [evil]}]] * 30 + [["x", {str(place): 1 for place in range(900)}]] * 40,
    )
    Path(f"{path}-lock").write_text(json.dumps({"pid": 1, "host": evil}))
    lines = list(report(path)) + [line for line, _ in verify_file(path)]
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 1_500
    assert sum(map(len, lines)) < 60_000
    assert any("and 20 more" in line for line in lines)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 900, b"\xff\xfe", b"5", b"null", b'{"pid": 1}', b'{"pid": -1, "host": "x"}', b'{"pid": 1e999, "host": "x"}',
     b'{"pid": 99999999999999999999, "host": "x"}', b'{"pid": true, "host": "x"}', b'{"pid": 1, "host": ["x"]}', b" " * 10_000_000],
)  # fmt: skip
def test_a_lock_that_says_nothing_names_nobody(path, content):
    """Whatever another program left there under its name."""
    Path(f"{path}-lock").write_bytes(content)
    assert writing_process(path) is None


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_pipe_beside_a_file_is_not_waited_for(path, suffix):
    """Under a name that SQLite uses."""
    os.mkfifo(f"{path}{suffix}")
    assert writing_process(path) is None
    refuses(path, "wanted a log beside it, got something that is no file")


# --- findings ----------------------------------------------------------------------------------------------


def test_a_stream_without_a_reward_has_findings(path):
    """There the returns of its episodes cannot be compared with anything."""
    do(path, "DELETE FROM runs WHERE stream = 0")
    do(path, "DELETE FROM steps WHERE stream = 0")
    assert "stream 0: its steps stop at 0, at the last flush at 150" in findings(path)


def test_a_file_in_which_nothing_fits_has_findings(path):
    """Every row of every table changed at once, and every named value: texts, no traceback."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("runs", "steps", "episodes"):
            for (number,) in connection.execute(f"SELECT number FROM {table}").fetchall():
                connection.execute(
                    f"UPDATE {table} SET stream = stream + 1000 + number, checksums = x'00' WHERE number = ?",
                    (number,),
                )
        connection.execute("UPDATE arrays SET form = 5, data = 'x'")
        connection.execute("UPDATE meta SET value = '[]' WHERE name NOT IN ('columns', 'obs_columns')")
    found = findings(path)
    assert len(found) > 50
    assert all(isinstance(finding, str) for finding in found)


# --- a file of another kind of buffer, a picture, a thread -------------------------------------------------


@pytest.mark.parametrize(
    "notes",
    [{}, {"seq_len": "3"}, {"seq_len": 0}, {"seq_len": True}, {"batch_size": -1}, {"batch_size": 2**80}, {"episodes": None}, {"episodes": -1},
     {"steps_before": 0.5}, {"moved": 1}],
)  # fmt: skip
def test_notes_of_an_iris_buffer_are_checked(tmp_path, notes):
    """They come from the file, too."""
    path = tmp_path / "iris.replay"
    good = {"seq_len": 3, "batch_size": 2, "episodes": 1, "steps_before": 0, "moved": False}
    with rv.IRISReplayBuffer(20, (3, 8, 8), 4, seq_len=3, batch_size=2, path=path) as iris:
        iris.add(np.zeros((3, 8, 8), np.uint8), 0, 0.0, True)
    rv.IRISReplayBuffer.open(path).close()
    set_meta(path, "notes", {**good, **notes} if notes else {})
    with pytest.raises(rv.FileError, match="wanted the file of an IRISReplayBuffer, got another buffer's"):
        rv.IRISReplayBuffer.open(path)


def test_the_steps_of_another_buffer_make_no_iris_buffer(path):
    """Even if its notes are such."""
    set_meta(path, "notes", {"seq_len": 3, "batch_size": 2, "episodes": 1, "steps_before": 0, "moved": False})
    with pytest.raises(rv.FileError, match="got another buffer's"):
        rv.IRISReplayBuffer.open(path)


def test_frames_too_large_for_a_picture_are_refused(tmp_path):
    """Before they are read."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(
        rv.StepSpec(rv.Field((1, 3000, 3000), "uint8"), rv.Field((), "int64")), 4, residency="disk", path=path
    ) as buffer:
        buffer.add(
            obs=np.zeros((1, 3000, 3000), np.uint8), action=0, reward=0.0, terminated=True, truncated=False
        )
    with pytest.raises(rv.BadSetting, match=r"column: wanted frames of at most 4,000,000 pixels"):
        film(path, 0, tmp_path / "a.png")


def test_closing_a_reader_stops_those_who_wait_with_the_right_error(whole):
    """Each of several threads that sample while it is closed gets a batch or BufferClosed, and no word of damage."""
    for _ in range(10):
        buffer = rv.open(whole, mode="r")
        begun, caught = threading.Barrier(4), []

        def draw(buffer=buffer, begun=begun, caught=caught) -> None:
            begun.wait()
            try:
                while True:
                    buffer.sample(8, 3)
            except Exception as error:
                caught.append(type(error))

        threads = [threading.Thread(target=draw) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        buffer.sample(8, 3)
        buffer.close()
        for thread in threads:
            thread.join()
        assert caught == [rv.BufferClosed] * 3
        with pytest.raises(rv.BufferClosed):
            buffer.sample(8, 3)


def test_a_copy_of_large_rows_is_renewed(tmp_path):
    """Nothing is taken for too long that is as long as its columns say; a copy with other tables is not written to."""
    path, copy, big = tmp_path / "a.replay", tmp_path / "b.replay", rv.Field((1 << 18,), "uint8")
    noise = np.random.default_rng(0).integers(0, 256, (40, 1 << 18), np.uint8)
    for settings in ({"path": path}, {}):
        with rv.ReplayBuffer(rv.StepSpec(big, rv.Field((), "int64")), 64, seed=0, **settings) as buffer:
            for step in range(40):
                buffer.add(obs=noise[step], action=0, reward=0.0, terminated=False, truncated=False)
                if step % 20 == 19:
                    buffer.save_as(copy)
        with rv.open(copy, mode="r") as again:
            assert len(again) == 40
        copy.unlink()
    with rv.ReplayBuffer(rv.StepSpec({"other": big}, rv.Field((), "int64")), 64, path=copy):
        pass
    with rv.open(path) as buffer:
        with closing(sqlite3.connect(path)) as connection:
            (identity,) = connection.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
        set_text(copy, "copy_of", identity)
        with pytest.raises(rv.FileError, match="wanted a free path or a copy"):
            buffer.save_as(copy)


def test_the_file_is_good(path):
    """What the tests above change is whole before."""
    assert findings(path) == []
    with rv.open(path, mode="r") as buffer:
        assert buffer.sample(4, 3).obs["low"].shape == (4, 4, 2)
        assert obs(3)["low"].shape == (2,)


@pytest.mark.parametrize("sql", ["SELECT zeroblob(100000000)", "SELECT hex(zeroblob(50000000))"])
def test_a_value_that_is_too_long_is_damage_where_it_is_read(path, sql):
    """A row of a file is as long as its columns say; what a writer puts there is told by its own words."""
    db = Database(path, "r", path)
    for read in (db.rows, lambda sql: list(db.each(sql))):
        with pytest.raises(
            rv.FileError, match="wanted a whole file, got a damaged one: string or blob too big"
        ):
            read(sql)
    db.limit_row(1 << 28)
    assert len(db.one(sql)) == 100_000_000
    db.close()
    with pytest.raises(rv.BufferClosed):
        db.limit_row(1)
