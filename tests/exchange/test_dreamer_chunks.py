"""Chunks of DreamerV3's replay: read and written, row by row, and judged by its own saver."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.exchange import export_to, import_from

JUDGE = os.environ.get("REVERIE_JUDGE_DREAMER", "")  # a Python that has dreamerv3 1.5.0
PROGRAM = Path(__file__).parent / "judges/judge_dreamer.py"
UUID = "0123456789abcdefghi{:03}"


def rows_of(*episodes, seed=0):
    """The rows of some episodes, one after the other: (steps, how it ended) of each."""
    rng, parts = np.random.default_rng(seed), []
    for steps, ended in episodes:
        closing = ended != "open"
        count = steps + closing
        first, last = (
            np.arange(count) == 0,
            np.arange(count) == (count - 1 if closing and ended != "cut" else -1),
        )
        reward = rng.normal(size=count).astype(np.float32) * ~first
        parts.append({
            "image": rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8),
            "vector": rng.normal(size=(count, 3)).astype(np.float32),
            "action": rng.integers(0, 4, count) * ~(last | (closing & (np.arange(count) == count - 1))),
            "reward": reward, "is_first": first, "is_last": last, "is_terminal": last & (ended == "terminated"),
            "log/depth": rng.normal(size=count) * (np.arange(count) < steps),
        })  # fmt: skip
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


STORY = [(5, "terminated"), (1, "truncated"), (30, "cut"), (4, "terminated")]
OTHER = [(3, "truncated"), (7, "terminated")]


def write(folder, rows, size=8, leave_out=(), first=0):
    """Write rows as chunks of `size`, by hand; some of them are lost."""
    folder.mkdir(exist_ok=True)
    count = -(-len(rows["reward"]) // size)
    for number in range(count):
        part = {key: one[number * size : (number + 1) * size] for key, one in rows.items()}
        length = len(part["reward"])
        ids = np.zeros((length, 20), np.uint8)
        uuid, successor = UUID.format(first + number), UUID.format(first + number + 1)
        if number not in leave_out:
            np.savez_compressed(
                folder / f"20240101T0000{number:02}F000000-{uuid}-{successor}-{length}.npz",
                stepid=ids,
                **part,
            )
    return folder


def check(buffer, rows, story):
    """Every step of the buffer's episodes is what the rows say."""
    at = 0
    for episode, (steps, ended) in zip(buffer.read_episodes(), story, strict=True):
        here = slice(at, at + steps)
        assert len(episode) == steps
        assert episode.ended == ended
        np.testing.assert_array_equal(episode.obs["image"], rows["image"][here])
        np.testing.assert_array_equal(episode.obs["vector"], rows["vector"][here])
        np.testing.assert_array_equal(episode.action, rows["action"][here])
        np.testing.assert_array_equal(episode.reward, rows["reward"][at + 1 : at + steps + 1])
        np.testing.assert_array_equal(episode.extras["depth"], rows["log/depth"][here])
        np.testing.assert_array_equal(episode.final_obs["image"], rows["image"][at + steps])
        np.testing.assert_array_equal(episode.final_obs["vector"], rows["vector"][at + steps])
        at += steps + 1


@pytest.mark.parametrize("size", [1, 8, 1024])
def test_in_out_and_in_again(size, tmp_path):
    """Recognised; chunks of any length; the same rows come out; the same next batch for the same seed."""
    rows, told = rows_of(*STORY), []
    first = import_from(write(tmp_path / "theirs", rows, size), seed=5, tell=told.append)
    assert told == []
    check(first, rows, STORY)
    export_to(first, tmp_path / "ours", "dreamer", tell=told.append)
    assert told == []
    [path] = (tmp_path / "ours").iterdir()
    with np.load(path) as file:
        assert set(file.files) == {*rows, "stepid"}
        assert all(
            np.array_equal(file[key], part) and file[key].dtype == part.dtype for key, part in rows.items()
        )
        assert file["stepid"].shape == (len(rows["reward"]), 20)
    second = import_from(tmp_path / "ours", path=tmp_path / "a.replay", seed=5)
    check(second, rows, STORY)
    one, other = (buffer.sample(32, 6, boundary="cross") for buffer in (first, second))
    for name in ("obs/image", "action", "reward", "is_first", "is_last", "is_terminal", "extras/depth"):
        np.testing.assert_array_equal(one[name], other[name])


def test_rows_are_those_of_cross(tmp_path):
    """A window of "cross" shows exactly the rows of the chunks."""
    rows = rows_of(*STORY)
    buffer = import_from(write(tmp_path / "theirs", rows), seed=0)
    # The row that closes a cut episode is one here, and in a buffer.
    batch = buffer.sample(500, 7, boundary="cross")
    for row in range(500):
        place = next(
            at
            for at in range(len(rows["reward"]))
            if np.array_equal(rows["image"][at], batch.obs["image"][row, 0])
        )
        for mine, theirs in (("obs/image", "image"), ("reward", "reward"), ("is_first", "is_first"), ("action", "action"),
                             ("is_terminal", "is_terminal")):  # fmt: skip
            np.testing.assert_array_equal(batch[mine][row], rows[theirs][place : place + 7])


@pytest.mark.parametrize("missing", range(6))
def test_a_missing_chunk_cuts_and_never_splices(missing, tmp_path):
    """No step of the buffer joins rows of both sides of the gap; every whole episode elsewhere is there."""
    rows, told = rows_of(*STORY), []
    count = -(-len(rows["reward"]) // 8)
    buffer = import_from(write(tmp_path / "theirs", rows, 8, leave_out={missing}), tell=told.append)
    gap = set(range(missing * 8, missing * 8 + 8))
    place = {rows["vector"][at].tobytes(): at for at in range(len(rows["reward"]))}
    seen = set()
    for episode in buffer.read_episodes():
        places = [place[one.tobytes()] for one in [*episode.obs["vector"], episode.final_obs["vector"]]]
        assert places == list(range(places[0], places[0] + len(places)))
        assert not gap & set(places)
        np.testing.assert_array_equal(episode.reward, rows["reward"][places[1:]])
        seen |= set(places)
    assert len(seen) >= len(rows["reward"]) - 8 - 2
    begins_inside = (
        missing < count - 1 and not rows["is_first"][min(missing * 8 + 8, len(rows["reward"]) - 1)]
    )
    assert any("in the middle" in line for line in told) == begins_inside


def test_the_action_after_the_last_row_is_told(tmp_path):
    """A chain that stops in the middle of an episode ends with an action that no step has; a closed one does not."""
    rows, told = rows_of((5, "terminated"), (3, "open")), []
    rows["action"][:] = 2
    buffer = import_from(write(tmp_path / "a", rows), tell=told.append)
    assert [one.ended for one in buffer.read_episodes()] == ["terminated", "cut"]
    assert buffer.episodes["length"].tolist() == [5, 2]
    assert told == ["1 episode stops without an end: what its last action led to is missing"]


def test_streams_are_chains(tmp_path):
    """Two chains in a folder do not mix, whatever their names' order; a chunk that was saved twice counts once."""
    one, other = rows_of(*STORY), rows_of(*OTHER, seed=1)
    folder = write(tmp_path / "both", one)
    write(folder, other, first=500)
    shorter = {key: part[:3] for key, part in other.items()}
    np.savez(folder / f"20240101T000000F000000-{UUID.format(500)}-{UUID.format(501)}-3.npz", **shorter)
    buffer = import_from(folder)
    assert buffer.episodes["length"].tolist() == [5, 1, 30, 4, 3, 7]


def test_streams_of_a_buffer_are_chains(tmp_path):
    """More than 1024 rows go on in another file, in the order of time; each stream has a chain of its own."""
    spec = rv.StepSpec(rv.Field((2,), "float32"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 6000, streams=2, seed=0)
    for step in range(2500):
        for stream in range(2):
            ends = step % 100 == 99
            buffer.add(obs=[step, stream], action=step, reward=step, terminated=ends, truncated=False, stream=stream,
                       final_obs=[-1, stream] if ends else None)  # fmt: skip
    export_to(buffer, tmp_path / "out", "dreamer")
    lengths = sorted(int(path.stem.split("-")[3]) for path in (tmp_path / "out").iterdir())
    assert lengths == [477, 477, 1024, 1024, 1024, 1024]
    again = import_from(tmp_path / "out")
    assert len(again) == 5000
    assert again.episodes["length"].tolist() == [100] * 50
    streams = [set(episode.obs[:, 1].tolist()) for episode in again.read_episodes()]
    assert streams == [{0.0}] * 25 + [{1.0}] * 25
    assert again.spec == spec


def test_what_has_no_place_is_listed_and_what_would_be_made_up_is_refused(tmp_path):
    spec = rv.StepSpec(rv.Field((8, 8, 3), "uint8"), {"move": rv.Field((2,), "float32"), "jump": rv.Field((), "int64")},
                       {"reward_float64": rv.Field((), "float64")})  # fmt: skip
    buffer, told = rv.ReplayBuffer(spec, 50, seed=0), []
    frame = np.zeros((8, 8, 3), np.uint8)

    def add(**more):
        buffer.add(obs=frame, action={"move": [1, 2], "jump": 1}, reward=0.1, reward_float64=0.1, **more)

    add(terminated=True, truncated=True, final_obs=frame + 1)
    buffer.annotate(episode=0, seed=1)
    add(terminated=False, truncated=False)
    with pytest.raises(rv.BadSetting, match="final observation is not known; pass lossy=\\('final_obs',\\)"):
        export_to(buffer, tmp_path / "out", "dreamer")
    assert not (tmp_path / "out").exists()
    export_to(buffer, tmp_path / "out", "dreamer", lossy=("final_obs",), tell=told.append)
    assert sorted(told) == [
        "1 episode has metadata: it has no place", "1 episode runs, and will come back as cut",
        "1 episode was truncated as it terminated: that is not told",
        "1 final observation is not known, and the last one stands in for it",
    ]  # fmt: skip
    again = import_from(tmp_path / "out")
    assert again.spec == spec
    one, other = again.read_episodes()
    assert (one.ended, other.ended) == ("terminated", "cut")
    assert one.extras["reward_float64"].tolist() == [0.1]
    with pytest.raises(rv.ReplayError, match="got one that is taken"):
        export_to(buffer, tmp_path / "out", "dreamer")
    clash = rv.ReplayBuffer(
        rv.StepSpec({"is_last": rv.Field((), "int64"), "x": rv.Field((), "int64")}, rv.Field((), "int64")), 5
    )
    with pytest.raises(rv.BadSetting, match="'obs/is_last', which would be 'is_last'"):
        export_to(clash, tmp_path / "clash", "dreamer")


def test_other_keys_may_be_extra_fields(tmp_path):
    """`extras=` names them; rows without a step, and rewards of a first row, are told."""
    rows, told = rows_of((2, "terminated"), (0, "cut"), (3, "truncated")), []
    rows["reward"] = np.where(rows["is_first"], np.float32(2), rows["reward"])
    buffer = import_from(write(tmp_path / "a", rows), extras=("vector",), tell=told.append)
    assert buffer.spec.obs == rv.Field((8, 8, 3), "uint8")
    assert set(buffer.spec.extras) == {"vector", "depth"}
    assert sorted(told) == ["1 episode has one row, and so no step: left out",
                            "2 rewards came with the first observation of an episode: no step has them"]  # fmt: skip
    with pytest.raises(rv.BadSetting, match="extras: wanted some of the keys"):
        import_from(tmp_path / "a", extras=("none",))


def test_what_is_no_chunk_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(rv.FileError, match="wanted a folder of DreamerV3's chunks, got none"):
        import_from(tmp_path / "empty", "dreamer")
    rows = rows_of(*STORY)
    folder = write(tmp_path / "cut", rows)
    path = sorted(folder.iterdir())[2]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(rv.FileError, match="wanted a chunk of arrays, got none"):
        import_from(folder)
    path.write_bytes(whole)
    path.rename(folder / path.name.replace("-8.npz", "-9.npz"))
    with pytest.raises(rv.FileError, match="wanted 9 rows of"):
        import_from(folder)
    ring = tmp_path / "ring"
    ring.mkdir()
    for uuid, successor in ((1, 2), (2, 1)):
        np.savez(
            ring
            / f"20240101T000000F000000-{UUID.format(uuid)}-{UUID.format(successor)}-{len(rows['reward'])}.npz",
            **rows,
        )
    with pytest.raises(rv.FileError, match="got one that follows itself"):
        import_from(ring)


@pytest.mark.skipif(not JUDGE, reason="REVERIE_JUDGE_DREAMER names no Python that has dreamerv3 1.5.0")
def test_dreamer_reads_what_is_written_and_is_read_itself(tmp_path):
    """Its own saver writes two streams, which are read; they are written again, and it finds every row equal."""
    streams = [rows_of(*STORY), rows_of(*OTHER, seed=1)]
    arrays = {f"{number}/{key}": part for number, rows in enumerate(streams) for key, part in rows.items()}
    np.savez(tmp_path / "arrays.npz", **arrays)

    def judge(verb, folder):
        command = [JUDGE, PROGRAM, verb, tmp_path / folder, tmp_path / "arrays.npz"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    done = judge("write", "theirs")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "theirs").iterdir())) == 4
    spec = import_from(write(tmp_path / "spec", streams[0])).spec
    buffer = rv.ReplayBuffer(spec, 200, streams=2, seed=0)
    for stream, rows in enumerate(streams):
        import_from(write(tmp_path / f"one{stream}", rows, first=100 * stream), into=buffer, stream=stream)

    def shown(source):
        return sorted((one.obs["vector"].tobytes(), one.final_obs["image"].tobytes(), one.ended, one.reward.tobytes())
                      for one in source.read_episodes())  # fmt: skip

    assert shown(import_from(tmp_path / "theirs")) == shown(buffer)
    export_to(buffer, tmp_path / "ours", "dreamer")
    done = judge("read", "ours")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 streams, 0 differences" in done.stdout
