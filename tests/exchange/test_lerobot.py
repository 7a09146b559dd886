"""LeRobotDataset v3.0: read as others write it, written so that LeRobot reads it, there and back."""

import json
import os
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.exchange import export_to, import_from

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

JUDGE = os.environ.get("REVERIE_JUDGE_LEROBOT", "")  # a Python that has lerobot 0.4.4
PROGRAM = Path(__file__).parent / "judges/judge_lerobot.py"
LENGTHS = (5, 1, 12)
SPEC = rv.StepSpec(
    {"top": rv.Field((3, 8, 6), "uint8"), "side": rv.Field((8, 6, 3), "uint8"), "depth": rv.Field((8, 6), "float32"),
     "state": rv.Field((4,), "float32"), "grip": rv.Field((), "float32")},
    rv.Field((2,), "float32"), {"reward_float64": rv.Field((), "float64"), "flag": rv.Field((), "bool"), "one": rv.Field((1,), "int16")},
)  # fmt: skip


def story(steps=LENGTHS, **more):
    """A buffer with an episode of each kind of end; every value tells where it belongs."""
    buffer, rng = rv.ReplayBuffer(SPEC, 100, seed=0, **more), np.random.default_rng(0)

    def obs():
        return {"top": rng.integers(0, 256, (3, 8, 6), np.uint8), "side": rng.integers(0, 256, (8, 6, 3), np.uint8), "grip": np.float32(rng.random()),
                "depth": rng.random((8, 6), np.float32), "state": rng.random(4, np.float32)}  # fmt: skip

    for number, count in enumerate(steps):
        for step in range(count):
            ends = step == count - 1
            reward = rng.normal()
            buffer.add(obs=obs(), action=rng.random(2, np.float32), reward=reward, reward_float64=reward, flag=step % 2 == 0,
                       one=[number], terminated=ends and number != 1, truncated=ends and number != 0,
                       final_obs=obs() if ends and number != 1 else None)  # fmt: skip
        buffer.annotate(episode=number, task=f"do {number % 2}", seed=number)
    return buffer


def same(one, other):
    """Every array, end, final observation and piece of metadata of two buffers is equal."""
    assert one.spec == other.spec
    for mine, theirs in zip(one.read_episodes(), other.read_episodes(), strict=True):
        for name in SPEC.obs:
            np.testing.assert_array_equal(mine.obs[name], theirs.obs[name])
            if mine.final_obs is not None:
                np.testing.assert_array_equal(mine.final_obs[name], theirs.final_obs[name])
        assert (mine.final_obs is None) == (theirs.final_obs is None)
        np.testing.assert_array_equal(mine.action, theirs.action)
        np.testing.assert_array_equal(mine.reward, theirs.reward)
        for name in SPEC.extras:
            np.testing.assert_array_equal(mine.extras[name], theirs.extras[name])
        assert (mine.terminated, mine.truncated, mine.metadata) == (
            theirs.terminated,
            theirs.truncated,
            theirs.metadata,
        )


@pytest.mark.parametrize("max_file_mb", [100, 0.001])
def test_out_and_in_again(max_file_mb, tmp_path):
    """Frames in both orders of axes, a file for each episode or one for all; the same next batch for the same seed."""
    first, told = story(), []
    export_to(first, tmp_path / "out", "lerobot", fps=12.5, max_file_mb=max_file_mb, tell=told.append)
    assert sorted(told) == ["2 final observations lie in meta/reverie.parquet, which LeRobot does not read",
                            "3 episodes have metadata: all but the task lies in meta/reverie.parquet, which LeRobot does not read"]  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "out/data/chunk-000").iterdir())
    assert (
        files == ["file-000.parquet", "file-001.parquet", "file-002.parquet"][: 3 if max_file_mb < 1 else 1]
    )
    told.clear()
    second = import_from(tmp_path / "out", path=tmp_path / "b.replay", seed=0, tell=told.append)
    assert told == []
    same(first, second)
    first = import_from(tmp_path / "out", seed=0, tell=told.append)
    one, other = (buffer.sample(32, 3, boundary="pad_right") for buffer in (first, second))
    for name in (
        "obs/top",
        "obs/depth",
        "action",
        "reward",
        "terminated",
        "truncated",
        "anchor",
        "extras/one",
    ):
        np.testing.assert_array_equal(one[name], other[name])


def test_the_files_are_as_lerobot_has_them(tmp_path):
    """Read by pyarrow alone: features, types, the grid of time stamps, tasks, bounds of episodes, one row group each."""
    buffer = story()
    export_to(buffer, tmp_path / "out", "lerobot", fps=10, tell=[].append)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"], info["total_tasks"]) == (
        "v3.0",
        10,
        18,
        2,
    )
    assert info["features"]["observation.top"] == {
        "dtype": "image",
        "shape": [8, 6, 3],
        "names": ["height", "width", "channels"],
    }
    assert info["features"]["observation.depth"]["shape"] == [8, 6]
    assert info["features"]["observation.grip"]["shape"] == [1]
    file = pq.ParquetFile(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert file.num_row_groups == 3
    table = file.read()
    assert table.schema.field("observation.state").type == pa.list_(pa.float32(), 4)
    assert table.schema.field("observation.grip").type == pa.float32()
    rows = table.to_pylist()
    assert [row["index"] for row in rows] == list(range(18))
    assert [row["timestamp"] for row in rows] == [
        np.float32(n / 10) for steps in LENGTHS for n in range(steps)
    ]
    assert [row["next.done"] for row in rows] == [n == steps - 1 for steps in LENGTHS for n in range(steps)]
    frame = np.asarray(Image.open(BytesIO(rows[2]["observation.top"]["bytes"])))
    np.testing.assert_array_equal(frame, buffer.episode(0).obs["top"][2].transpose(1, 2, 0))
    episodes = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(one["dataset_from_index"], one["dataset_to_index"], one["length"], one["tasks"]) for one in episodes] == [
        (0, 5, 5, ["do 0"]), (5, 6, 1, ["do 1"]), (6, 18, 12, ["do 0"])]  # fmt: skip
    tasks = pq.read_table(tmp_path / "out/meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["do 0", "do 1"]}
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    state = np.concatenate([one.obs["state"] for one in buffer.read_episodes()])
    np.testing.assert_allclose(stats["observation.state"]["mean"], state.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(0), rtol=1e-5)
    top = np.concatenate([one.obs["top"] for one in buffer.read_episodes()]) / 255
    np.testing.assert_allclose(np.squeeze(stats["observation.top"]["mean"]), top.mean((0, 2, 3)), rtol=1e-6)


def foreign(folder, video=False, **damage):
    """A data set as LeRobot writes one: no rewards, two files that break in the middle of an episode, stale indices."""
    rng = np.random.default_rng(1)
    count = sum(LENGTHS)
    frames = np.concatenate([np.arange(steps) for steps in LENGTHS])
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(count * 2, np.float32)), 2),
        "observation.images.top-left": pa.array([{"bytes": png(number), "path": None} for number in range(count)]),
        "action": pa.array(rng.random(count, np.float32)), "next.success": pa.array(np.arange(count) % 2 == 0),
        "timestamp": pa.array((frames / 30).astype(np.float32)), "frame_index": pa.array(frames),
        "episode_index": pa.array(np.repeat(np.arange(3), LENGTHS)), "index": pa.array(np.arange(count)),
        "task_index": pa.array(np.repeat([1, 0, 1], LENGTHS)),
    } | damage  # fmt: skip
    table = pa.table(columns)
    (folder / "data/chunk-000").mkdir(parents=True)
    pq.write_table(table.slice(0, 9), folder / "data/chunk-000/file-000.parquet")
    pq.write_table(table.slice(9), folder / "data/chunk-000/file-001.parquet")
    features = {"observation.state": {"dtype": "float32", "shape": [2]}, "action": {"dtype": "float32", "shape": [1]},
                "observation.images.top-left": {"dtype": "image", "shape": [4, 4, 3]}, "next.success": {"dtype": "bool", "shape": [1]},
                **{name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")},
                "timestamp": {"dtype": "float32", "shape": [1]}}  # fmt: skip
    if video:
        features["observation.images.wrist"] = {"dtype": "video", "shape": [4, 4, 3]}
    (folder / "meta").mkdir()
    info = {
        "codebase_version": "v3.0",
        "fps": 30,
        "total_frames": count,
        "robot_type": "so100",
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["stack", "pick"]}), folder / "meta/tasks.parquet")
    return table


def png(number):
    stream = BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_others_are_read(tmp_path):
    """The data's own episode index counts; names are mapped and back; tasks are metadata; what is not told is listed."""
    table, told = foreign(tmp_path / "a"), []
    buffer = import_from(tmp_path / "a", tell=told.append)
    assert told == ["1 data set has no next.reward, and zeros stand in its place"]
    assert buffer.episodes["length"].tolist() == list(LENGTHS)
    assert buffer.episodes["ended"].tolist() == ["cut"] * 3
    assert [one["task"] for one in buffer.episodes.metadata] == ["pick", "stack", "pick"]
    assert set(buffer.spec.obs) == {"state", "images_top_left"}
    assert set(buffer.spec.extras) == {"next_success"}
    at = 0
    for episode in buffer.read_episodes():
        here = slice(at, at := at + len(episode))
        assert episode.obs["images_top_left"][:, 0, 0, 0].tolist() == list(range(18))[here]
        np.testing.assert_array_equal(episode.action, table["action"].to_numpy()[here])
        np.testing.assert_array_equal(
            episode.obs["state"], np.array(table["observation.state"].to_pylist(), np.float32)[here]
        )
    export_to(buffer, tmp_path / "b", "lerobot", tell=told.append)
    again = json.loads((tmp_path / "b/meta/info.json").read_text())
    assert {"observation.images.top-left", "observation.state", "next.success", "action"} < again[
        "features"
    ].keys()
    assert (again["fps"], again["robot_type"]) == (30, "so100")


def test_videos_are_refused_or_left_out_by_name(tmp_path):
    foreign(tmp_path / "a", video=True)
    with pytest.raises(rv.BadSetting, match=r"wrist'\], which are not read.*pass lossy=\('video',\)"):
        import_from(tmp_path / "a")
    told = []
    buffer = import_from(tmp_path / "a", lossy=("video",), tell=told.append)
    assert told[0] == "1 data set has videos: ['observation.images.wrist'] are not read"
    assert set(buffer.spec.obs) == {"state", "images_top_left"}


def test_damage_is_told(tmp_path):
    """Missing files, frames out of order, an episode in two places, parquet without its end, other versions."""
    foreign(tmp_path / "a")
    (tmp_path / "a/data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(
        rv.FileError, match=r"wanted 18 frames, as meta/info\.json says, got 9; files are missing"
    ):
        import_from(tmp_path / "a", tell=[].append)
    for number, (column, values, words) in enumerate([
        ("frame_index", np.arange(18), "wanted frames 0 to 0 of episode 1, got others"),
        ("episode_index", np.repeat([0, 1, 0], LENGTHS), "wanted the frames of episode 0 together"),
    ]):  # fmt: skip
        foreign(tmp_path / f"b{number}", **{column: pa.array(values)})
        with pytest.raises(rv.FileError, match=words):
            import_from(tmp_path / f"b{number}", tell=[].append)
    path = tmp_path / "b0/data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        rv.FileError, match=r"file-001\.parquet: wanted a parquet file, got a damaged one.*finalized"
    ):
        import_from(tmp_path / "b0")
    info = tmp_path / "a/meta/info.json"
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    with pytest.raises(
        rv.FileError, match=r"wanted version v3\.0 of LeRobot's format, got v2\.1; convert it"
    ):
        import_from(tmp_path / "a", "lerobot")
    with pytest.raises(rv.FileError, match=r"wanted meta/info\.json of LeRobot, got none"):
        import_from(tmp_path / "none", "lerobot")


def test_empty_cut_and_what_is_refused(tmp_path):
    empty = rv.ReplayBuffer(SPEC, 10, seed=0)
    export_to(empty, tmp_path / "empty", "lerobot")
    assert len(import_from(tmp_path / "empty")) == 0
    spec = rv.StepSpec(
        rv.Field((3,), "float32"), {"a": rv.Field((), "int64"), "b": rv.Field((2,), "float32")}
    )
    buffer, told = rv.ReplayBuffer(spec, 10, seed=0), []
    buffer.add(obs=[1, 2, 3], action={"a": 1, "b": [1, 2]}, reward=0.5, terminated=False, truncated=False)
    export_to(buffer, tmp_path / "one", "lerobot", task="walk", tell=told.append)
    assert told == ["1 episode runs, and will come back as cut"]
    again = import_from(tmp_path / "one")
    assert again.spec == spec
    assert again.episodes["ended"].tolist() == ["cut"]
    with pytest.raises(rv.ReplayError, match="got one that is taken"):
        export_to(buffer, tmp_path / "one", "lerobot")
    with pytest.raises(rv.BadSetting, match="fps"):
        export_to(buffer, tmp_path / "two", "lerobot", fps=0)
    clash = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), {"timestamp": rv.Field((), "int64")})
    with pytest.raises(rv.BadSetting, match="got 'timestamp' twice"):
        export_to(rv.ReplayBuffer(clash, 10), tmp_path / "two", "lerobot")
    assert not (tmp_path / "two").exists()


@pytest.mark.skipif(not JUDGE, reason="REVERIE_JUDGE_LEROBOT names no Python that has lerobot 0.4.4")
def test_lerobot_reads_what_is_written_and_is_read_itself(tmp_path):
    """LeRobot finds every frame equal; what it writes itself is read."""
    buffer = story()
    export_to(buffer, tmp_path / "ours", "lerobot", fps=10, max_file_mb=0.01, tell=[].append)
    arrays = {}
    for name in SPEC.obs:
        arrays[f"observation.{name}"] = np.concatenate([one.obs[name] for one in buffer.read_episodes()])
    arrays["action"] = np.concatenate([one.action for one in buffer.read_episodes()])
    arrays["next.reward"] = np.concatenate([one.extras["reward_float64"] for one in buffer.read_episodes()])
    arrays["episode_index"] = np.repeat(np.arange(3), LENGTHS)
    np.savez(tmp_path / "arrays.npz", **arrays)

    def judge(verb, folder):
        command = [JUDGE, PROGRAM, verb, tmp_path / folder, tmp_path / "arrays.npz"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    done = judge("read", "ours")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 frames, 0 differences" in done.stdout
    done = judge("write", "theirs")
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = import_from(tmp_path / "theirs", tell=[].append)
    assert theirs.episodes["length"].tolist() == list(LENGTHS)
    for mine, other in zip(buffer.read_episodes(), theirs.read_episodes(), strict=True):
        np.testing.assert_array_equal(other.obs["state"], mine.obs["state"])
        np.testing.assert_array_equal(other.obs["side"], mine.obs["side"])
        np.testing.assert_array_equal(other.action, mine.action)
        np.testing.assert_array_equal(other.reward, mine.reward)
        assert other.metadata == {"task": "judge"}
