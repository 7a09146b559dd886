"""`reverie.verify`: a whole file has no findings; whatever is broken in it by hand is found and named."""

import json
import shutil
import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.file.records import EPISODE_FORM, RUN_FORM, STEP_FORM, checksums, text_checksum
from reverie.file.replay import ReplayFile
from reverie.file.verify import Audit, cause, verify_file
from reverie.store import pack

SPEC = rv.StepSpec({"frame": rv.Field((3, 8, 8), "uint8"), "low": rv.Field((2,), "float32")},
                   rv.Field((), "int64"), {"seen": rv.Field((), "bool")})  # fmt: skip
FORMS = {"runs": (RUN_FORM, 4), "steps": (STEP_FORM, 4), "episodes": (EPISODE_FORM, 7)}


def obs(step: int) -> dict:
    return {"frame": np.full((3, 8, 8), step % 256, np.uint8), "low": np.full(2, step, np.float32)}


def record(path: Path, steps: int = 150, samplers: bool = True, **settings) -> rv.ReplayBuffer:
    """Two streams of 100 steps each, in episodes of 17; every third one shows its final observation."""
    buffer = rv.ReplayBuffer(SPEC, 200, streams=2, seed=0, path=path, **settings)
    for step in range(steps):
        for stream in range(2):
            ends = step % 17 == 16
            buffer.add(obs=obs(step), action=step, reward=0.1 * step, terminated=ends, truncated=False,
                       stream=stream, final_obs=obs(step + 1) if ends and step % 3 else None, seen=bool(step % 2))  # fmt: skip
    if samplers:
        # New ones for each file: a sampler serves one buffer.
        for sampler in (
            rv.Prioritized(),
            rv.VisitBalanced(),
            rv.Mixture([(rv.VisitBalanced(by="step"), 1.0)]),
        ):
            buffer.sample(4, 3, sampler=sampler)
    return buffer


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.replay"
    record(path).close()
    return path


@pytest.fixture
def path(whole, tmp_path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "broken.replay"))


def findings(path: Path) -> list[str]:
    file = ReplayFile.open(path, "r")
    try:
        return list(Audit(file).findings())
    finally:
        file.close()


def do(path: Path, sql: str, *values) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(sql, values).rowcount != 0, "the statement meets a row"


def change(path: Path, table: str, number: int, /, **values) -> None:
    """Change a row and give it the checksums that go with it."""
    form, count = FORMS[table]
    with closing(sqlite3.connect(path)) as connection, connection:
        cursor = connection.execute(f"SELECT * FROM {table} WHERE number = ?", (number,))
        row = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
        row |= {name.replace("__", "/"): value for name, value in values.items()}
        cells = list(row.values())
        cells[count] = checksums(form, cells[:count], cells[count + 1 :])
        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
        connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(cells))})", cells)


def set_meta(path: Path, name: str, value: object) -> None:
    text = json.dumps(value)
    do(path, "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", name, text, text_checksum(name, text))


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("steps", [0, 1, 31, 32, 33, 100, 101, 150, 333])
def test_a_whole_file_has_no_findings(durability, steps, tmp_path):
    """Neither while it is written, nor flushed, nor closed, however far the rings have come round."""
    path = tmp_path / "whole.replay"
    with record(path, steps, samplers=False, durability=durability) as buffer:
        assert findings(path) == []
        buffer.flush()
        assert findings(path) == []
        if steps:
            buffer.cut(0)
            buffer.write_back(buffer.sample(4, 1), seen=np.ones((4, 1), bool))
        assert findings(path) == []
        buffer.save_as(tmp_path / "copy.replay")
    assert findings(path) == []
    assert findings(tmp_path / "copy.replay") == []


def test_a_budget_that_drops_runs_leaves_no_findings(tmp_path):
    """Runs that a budget of bytes let go of are not missed."""
    spec = rv.StepSpec(rv.Field((3, 32, 32), "uint8"), rv.Field((), "int64"))
    noise = np.random.default_rng(0).integers(0, 256, (2000, 3, 32, 32), np.uint8)
    path = tmp_path / "small.replay"
    with rv.ReplayBuffer(spec, 4_000, path=path, residency="disk", max_bytes=1_500_000, seed=0) as buffer:
        for step in range(2_000):
            buffer.add(obs=noise[step], action=0, reward=1.0, terminated=step % 9 == 8, truncated=False)
        assert len(buffer) < 1_000
    assert findings(path) == []


def test_what_was_looked_at_is_counted(whole):
    """Counts tell that the checks above looked at something."""
    file = ReplayFile.open(whole, "r")
    audit = Audit(file)
    assert list(audit.findings()) == []
    file.close()
    counts = dict(audit.counts)
    assert counts.pop("final observations") == 8
    assert counts.pop("arrays") > 5
    assert counts == {"named values": 17, "sealed runs": 8, "steps in them": 200, "rows of newest steps": 64,
                      "episodes": 14, "live steps": 200, "samplers": 3}  # fmt: skip


def test_a_page_overwritten_with_noise_is_found(path):
    """Damage at any place of the file is found, or hits only what is not used; nothing but text comes of it."""
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for page in range(1, len(content) // 4096):
        damaged = bytearray(content)
        damaged[page * 4096 : (page + 1) * 4096] = rng.bytes(4096)
        path.write_bytes(damaged)
        try:
            found += bool(findings(path))
        except rv.FileError:
            found += 1
    assert found == len(content) // 4096 - 1


def test_any_flipped_byte_is_survived(path):
    """A single wrong byte anywhere gives findings or a FileError, and never another exception."""
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(100, len(content), 60).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with suppress(rv.FileError):
            assert all(isinstance(finding, str) for finding in findings(path))


def test_a_schema_that_is_no_text_is_a_file_error(path):
    """SQLite then quotes it in its message, which is no text either: still a FileError."""
    content = path.read_bytes()
    damaged = content.replace(b"CREATE TABLE runs (number", b"CREATE TABLE runs \xca\xffumber")
    assert damaged != content
    path.write_bytes(damaged)
    with pytest.raises(rv.FileError, match="restore it from a copy"):
        findings(path)


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE runs SET first = first + 100 WHERE number = 1", "run 1: the checksum of its numbers is wrong"),
        ("UPDATE runs SET reward = x'00' WHERE number = 1", "run 1, column 'reward': its checksum is wrong"),
        ("UPDATE runs SET checksums = x'0000' WHERE number = 1", "run 1: it holds values of another kind"),
        ("UPDATE runs SET reward = 'text' WHERE number = 1", "run 1: it holds values of another kind"),
        ("DELETE FROM runs WHERE number = 2", "stream 0: steps 64 to 95 are missing"),
        ("DELETE FROM runs WHERE number = 0", "stream 0: steps 100 to 117 are missing"),
        ("DELETE FROM steps WHERE number = 5", "stream 0: steps 133 to 133 are missing"),
        ("UPDATE steps SET ended = 3 WHERE number = 40", "step row 40: the checksum of its numbers is wrong"),
        ("UPDATE steps SET reward = x'0000' WHERE number = 63", "step row 63, column 'reward': its checksum is wrong"),
        ("UPDATE episodes SET stop = stop + 1 WHERE number = 12", "episode 12: the checksum of its numbers is wrong"),
        ("UPDATE episodes SET \"final_obs/low\" = NULL WHERE number = 12", "episode 12, column 'final_obs/low': its checksum is wrong"),
        ("DELETE FROM episodes WHERE number = 12", "stream 0: episode 14 does not begin where episode 10 stopped"),
        ("DELETE FROM episodes WHERE number = 5", "stream 1: steps 50 to 50 belong to no episode"),
        ("DELETE FROM episodes WHERE number = 17", "stream 1, step 149: it belongs to no episode"),
        ("UPDATE meta SET value = '300' WHERE name = 'capacity'", "meta 'capacity': its checksum is wrong"),
        ("DELETE FROM meta WHERE name = 'samplers'", "meta 'samplers': it is missing, or damaged"),
        ("UPDATE arrays SET data = x'00' WHERE name = 'index/row'", "array 'index/row': its checksum is wrong"),
        ("DELETE FROM arrays WHERE name = 'samplers/1/visits'", "sampler 1, VisitBalanced(by=episode): its array 'samplers/1/visits' is missing, or damaged"),
    ],
)  # fmt: skip
def test_a_changed_row_is_found(path, sql, finding):
    """What a checksum no longer fits, and what is gone, is named with its place."""
    do(path, sql)
    assert finding in findings(path)


@pytest.mark.parametrize(
    ("table", "number", "values", "finding"),
    [
        ("runs", 2, {"first": 96}, "run 2: 32 steps of stream 0 from step 96 cannot lie there"),
        ("runs", 2, {"stream": 7}, "run 2: 32 steps of stream 7 from step 64 cannot lie there"),
        ("runs", 2, {"steps": 31}, "run 2: 31 steps of stream 0 from step 64 cannot lie there"),
        ("runs", 2, {"reward": b"\0" * 5}, "run 2 (stream 0, steps 64 to 95), column 'reward': it does not unpack"),
        ("runs", 2, {"reward": b"\1\2\3"}, "run 2 (stream 0, steps 64 to 95), column 'reward': it does not unpack"),
        ("runs", 2, {"reward": b"\7\2\3"}, "run 2 (stream 0, steps 64 to 95), column 'reward': it does not unpack"),
        ("runs", 2, {"reward": b""}, "run 2 (stream 0, steps 64 to 95), column 'reward': it does not unpack"),
        ("runs", 2, {"reward": b"\0" + np.full(32, np.nan, np.float32).tobytes()}, "run 2 (stream 0, steps 64 to 95), column 'reward': not every reward is finite"),
        ("runs", 2, {"extras__seen": b"\0" + b"\2" * 32}, "run 2 (stream 0, steps 64 to 95), column 'extras/seen': it does not unpack (not every truth value is 0 or 1)"),
        ("runs", 2, {"reward": b"\0" + np.ones(32, np.float32).tobytes()}, "stream 0: the return of episode 8 is 129.2, the sum of its rewards 17"),
        ("steps", 5, {"ended": 9}, "step row 5: step 133 of stream 0, ended 9, cannot lie there"),
        ("steps", 5, {"id": 132}, "step row 5: step 132 of stream 0, ended 0, cannot lie there"),
        ("steps", 5, {"ended": 1}, "stream 0, step 133: it ends an episode, and episode 14 goes on"),
        ("steps", 5, {"reward": b"\0\0"}, "stream 0, step 133, column 'reward': it does not unpack"),
        ("steps", 4, {"obs__frame": b"\2\0\0"}, "stream 0, step 132, column 'obs/frame': it does not unpack"),
        ("steps", 5, {"obs__frame": b"\2\0\0"}, "stream 0, step 133, column 'obs/frame': it does not unpack"),
        ("steps", 5, {"final_obs/low": b"\0" * 9}, "step 133 of stream 0: its final observation lacks some of its columns"),
        ("episodes", 12, {"final_obs/low": None}, "episode 12: its final observation lacks some of its columns"),
        ("episodes", 12, {"final_obs/low": b"\0"}, "episode 12: its final observation, column 'obs/low': it does not unpack"),
        ("episodes", 12, {"ended": 5}, "episode 12: ended is 5, which means nothing"),
        ("episodes", 12, {"ended": 0}, "episode 12: it runs, and yet it has a final observation"),
        ("episodes", 12, {"ended": 0}, "stream 0: episode 12 runs, and yet episode 14 came after it"),
        ("episodes", 12, {"stop": 60}, "episode 12: steps 102 to 60 of stream 0 cannot be"),
        ("episodes", 12, {"stop": 118}, "stream 0: episode 14 does not begin where episode 12 stopped"),
        ("episodes", 12, {"total": 1.0}, "stream 0: the return of episode 12 is 1, the sum of its rewards 187"),
        ("episodes", 12, {"total": float("inf")}, "episode 12: its return is inf"),
        ("episodes", 16, {"stop": 151}, "stream 0: its episodes stop at step 151, its steps at 150"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_found(path, table, number, values, finding):
    """What fits its checksum and yet cannot be, or not beside the rest, is named with its place."""
    change(path, table, number, **values)
    assert any(found.startswith(finding) for found in findings(path)), findings(path)


@pytest.mark.parametrize(
    ("name", "value", "finding"),
    [
        ("capacity", 201, "settings: they are none (capacity: wanted a multiple of streams (2), got 201"),
        ("capacity", "many", "settings: they are none"),
        ("run", 16, "settings: they are none (its runs have 16 steps, not 32)"),
        (
            "spec",
            {"obs": [[2], "<f4"], "action": [[], "<i8"], "extras": {}},
            "settings: the spec has the columns",
        ),
        ("spec", [], "settings: they are none"),
        ("durability", "often", "settings: they are none (durability: wanted 'step' or 'chunk', got 'often'"),
        ("max_bytes", -1, "settings: they are none (max_bytes: wanted an integer of at least 1"),
        ("rng", {"counter": 1}, "meta 'rng': it is no state of a generator"),
        ("clean", 1, "meta 'clean': wanted a JSON bool, got 1"),
        ("samplers", {}, "meta 'samplers': wanted a JSON list, got {}"),
        ("samplers", [["Uniform()"]], "sampler 0: wanted its kind and state, got ['Uniform()']"),
    ],
)
def test_settings_that_cannot_be_are_found(path, name, value, finding):
    """So are named values that mean nothing."""
    set_meta(path, name, value)
    assert any(found.startswith(finding) for found in findings(path)), findings(path)


@pytest.mark.parametrize(
    ("array", "finding"),
    [
        (
            np.ones(7),
            "sampler 0, Prioritized(): weights of a sampler's state: wanted an array of shape (200,), got one of shape (7,)",
        ),
        (
            np.full(200, np.nan),
            "sampler 0, Prioritized(): weights of a sampler's state: wanted values from 0 to 1e+200",
        ),
        (None, "array 'samplers/0/steps/weights': it does not unpack"),
    ],
)
def test_weights_that_cannot_be_are_found(path, array, finding):
    """What a sampler remembers must fit the buffer."""
    name = "samplers/0/steps/weights"
    form, data = ("<f8 300", b"\0" * 3) if array is None else (f"<f8 {len(array)}", pack(array))
    checksum = zlib.crc32(data, text_checksum(name, form))
    do(path, "UPDATE arrays SET form = ?, data = ?, checksum = ? WHERE name = ?", form, data, checksum, name)
    assert any(found.startswith(finding) for found in findings(path)), findings(path)


def test_it_goes_on_after_a_finding(path):
    """Several things broken at once are all found."""
    do(path, "UPDATE meta SET value = '{' WHERE name = 'rng'")
    do(path, "UPDATE runs SET reward = x'00' WHERE number = 6")
    do(path, "DELETE FROM steps WHERE number = 6")
    do(path, "DELETE FROM episodes WHERE number = 13")
    do(path, "UPDATE arrays SET form = 'none' WHERE name = 'index/row'")
    found = findings(path)
    for part in (
        "meta 'rng'",
        "run 6",
        "stream 0: steps 134 to 134",
        "stream 1: episode 15",
        "array 'index/row'",
    ):
        assert any(part in finding for finding in found), part


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([[50, 50], [150, 170]], "stream 1: its steps stop at 150, at the last flush at 170"),
        ([[40, 50], [150, 150]], "stream 0: its steps begin at 50, at the last flush at 40"),
        ([[50], [150]], "meta 'ends': wanted a tail and a head for each stream"),
        ("all", "meta 'ends': wanted a tail and a head for each stream"),
    ],
)
def test_where_the_streams_stood_is_compared(path, ends, message):
    """A note of tails and heads that the rows do not bear out, or that is none, is named."""
    text = json.dumps(ends)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = ?, checksum = ? WHERE name = 'ends'",
                           (text, text_checksum("ends", text)))  # fmt: skip
    assert any(message in finding for finding in findings(path))


@pytest.mark.parametrize(
    ("table", "words"),
    [("runs", "run"), ("steps", "step row"), ("episodes", "episode"), ("runs", "stray run")],
)
def test_every_record_is_looked_at_whatever_the_others_are(table, words, path):
    """Each wrong one is told, not the first of them alone."""
    with closing(sqlite3.connect(path)) as connection:
        numbers = [number for (number,) in connection.execute(f"SELECT number FROM {table} ORDER BY number")]
    assert len(numbers) > 2
    if words == "stray run":
        for number in numbers:
            change(path, table, number, stream=9)
        wanted = {f"run {number}: " for number in numbers}
    else:
        other = "steps = steps + 1" if table == "runs" else "ended = ended + 8"
        do(path, f"UPDATE {table} SET {other}")
        wanted = {f"{words} {number}: the checksum of its numbers is wrong" for number in numbers}
    found = findings(path)
    for text in wanted:
        assert any(finding.startswith(text) for finding in found), (text, found)


@pytest.mark.parametrize(("rows", "last"), [(0, "nothing is wrong"), (1, "1 finding"), (2, "2 findings")])
def test_the_last_line_counts_the_findings(rows, last, path):
    """As many as there were lines of them."""
    for number in (12, 14)[:rows]:
        do(path, 'UPDATE episodes SET "final_obs/low" = ? WHERE number = ?', b"no", number)
    lines = list(verify_file(path))
    assert [wrong for _, wrong in lines] == [True] * rows + [False] * 2
    assert lines[-1][0] == last


def test_why_a_row_cannot_be_read_is_told_in_the_words_of_sqlite():
    """Without the path and the remedy of the error around them; where there is nothing else, that error is told."""
    error = rv.FileError("a.replay: wanted a whole file, got a damaged one; restore it")
    assert cause(error) == f"it cannot be read ({error})"
    error.__cause__ = sqlite3.DatabaseError("database disk image is malformed")
    assert cause(error) == "it cannot be read (database disk image is malformed)"
