"""HDF5 files of D4RL, robomimic and stable-worldmodel, written here with h5py alone."""

import json

import numpy as np
import pytest

import reverie as rv
from reverie.exchange import export_to, import_from

h5py = pytest.importorskip("h5py")


def batches_agree(one, other):
    """The same next batch for the same seed."""
    first, second = (buffer.sample(32, 3, boundary="pad_right") for buffer in (one, other))
    for name in ("reward", "terminated", "truncated", "anchor", "action"):
        np.testing.assert_array_equal(first[name], second[name])


# --- D4RL ----------------------------------------------------------------------------------------------------

ENDS = [("terminated", 5), ("truncated", 1), ("both", 7), ("cut", 4)]


def d4rl(path, known=True, timeouts=True, **more):
    """Four episodes in flat arrays; the last one has no flag."""
    count = sum(steps for _, steps in ENDS)
    rng = np.random.default_rng(0)
    rows = {"observations": rng.normal(size=(count, 3)).astype(np.float32),
            "actions": rng.normal(size=(count, 2)).astype(np.float32), "rewards": rng.normal(size=count),
            "terminals": np.zeros(count, bool), "timeouts": np.zeros(count, bool),
            "infos/qpos": rng.normal(size=(count, 4)), "infos/goal-x": np.arange(count)}  # fmt: skip
    following = np.concatenate([rows["observations"][1:], rows["observations"][:1]])
    stop = 0
    for kind, steps in ENDS:
        stop += steps
        rows["terminals"][stop - 1] = kind in ("terminated", "both")
        rows["timeouts"][stop - 1] = kind in ("truncated", "both")
        following[stop - 1] = 100 + stop
    if known:
        rows["next_observations"] = following
    if not timeouts:
        del rows["timeouts"]
    rows |= more
    with h5py.File(path, "w") as file:
        for name, array in rows.items():
            file[name] = array
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/weight"] = np.zeros((3, 3))
    return rows


@pytest.mark.parametrize("known", [True, False])
def test_d4rl_is_read(known, tmp_path):
    """Both flags, names with slashes, float64 rewards; the final observation where it is told."""
    rows, told = d4rl(tmp_path / "a.hdf5", known), []
    buffer = import_from(tmp_path / "a.hdf5", tell=told.append)
    assert told == ["metadata/policy/weight: no number for each step"]
    assert buffer.episodes["length"].tolist() == [steps for _, steps in ENDS]
    stop = 0
    for episode, (kind, steps) in zip(buffer.read_episodes(), ENDS, strict=True):
        here = slice(stop, stop + steps)
        stop += steps
        np.testing.assert_array_equal(episode.obs, rows["observations"][here])
        np.testing.assert_array_equal(episode.action, rows["actions"][here])
        np.testing.assert_array_equal(episode.extras["reward_float64"], rows["rewards"][here])
        np.testing.assert_array_equal(episode.extras["infos_qpos"], rows["infos/qpos"][here])
        np.testing.assert_array_equal(episode.extras["infos_goal_x"], rows["infos/goal-x"][here])
        assert (episode.terminated, episode.truncated) == (
            kind in ("terminated", "both"),
            kind in ("truncated", "both"),
        )
        assert (episode.final_obs is not None) == known
        if known:
            assert episode.final_obs.tolist() == [100 + stop] * 3


def test_d4rl_without_timeouts_is_never_spliced(tmp_path):
    """Where the next observation is told, a jump cuts. Where nothing tells, it is refused, or told how long one is."""
    d4rl(tmp_path / "told.hdf5", timeouts=False)
    buffer = import_from(tmp_path / "told.hdf5", tell=[].append)
    assert buffer.episodes["length"].tolist() == [5, 1, 7, 4]
    assert buffer.episodes["ended"].tolist() == ["terminated", "cut", "terminated", "cut"]
    d4rl(tmp_path / "not.hdf5", known=False, timeouts=False)
    with pytest.raises(rv.BadSetting, match=r"where truncated episodes end; pass lossy=\('timeouts',\)"):
        import_from(tmp_path / "not.hdf5")
    told = []
    buffer = import_from(tmp_path / "not.hdf5", lossy=("timeouts",), tell=told.append)
    assert "an episode that was truncated runs into the next one" in told[0]
    assert buffer.episodes["length"].tolist() == [5, 8, 4]
    buffer = import_from(tmp_path / "not.hdf5", max_episode_steps=4, tell=[].append)
    assert buffer.episodes["length"].tolist() == [4, 1, 4, 4, 4]
    assert buffer.episodes["ended"].tolist() == [
        "truncated",
        "terminated",
        "truncated",
        "terminated",
        "truncated",
    ]


def test_a_long_d4rl_episode_comes_in_pieces(tmp_path):
    """More steps than are in memory at once are one episode."""
    count = 10_000
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"], file["actions"] = np.arange(count)[:, None], np.zeros((count, 1))
        file["rewards"], file["terminals"], file["timeouts"] = (
            np.ones(count),
            np.arange(count) == count - 1,
            np.zeros(count),
        )
    buffer = import_from(tmp_path / "a.hdf5")
    assert buffer.episodes["length"].tolist() == [count]
    assert buffer.episode(0).obs[:, 0].tolist() == list(range(count))


def test_d4rl_empty_and_of_one_step(tmp_path):
    for count in (0, 1):
        with h5py.File(tmp_path / f"{count}.hdf5", "w") as file:
            file["observations"], file["actions"] = np.zeros((count, 2)), np.zeros((count, 1))
            for name in ("rewards", "terminals", "timeouts"):
                file[name] = np.ones(count)
        assert len(import_from(tmp_path / f"{count}.hdf5")) == count


# --- robomimic -----------------------------------------------------------------------------------------------


def robomimic(path, signals=False, count=12):
    """Demonstrations of several lengths; the number of each is in its data."""
    rng = np.random.default_rng(1)
    demos = {}
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Lift"})
        for number in range(count):
            steps = 1 + number % 5
            obs = {
                "robot0_eef-pos": rng.normal(size=(steps + 1, 3)),
                "image": rng.integers(0, 256, (steps + 1, 8, 8, 3), np.uint8),
            }
            demo = {"actions": rng.normal(size=(steps, 7)), "rewards": np.arange(steps, dtype=float),
                    "dones": np.arange(steps) == steps - 1, "states": rng.normal(size=(steps, 11)), "odd": np.zeros(steps + 2)}  # fmt: skip
            if signals:
                demo["dones"][0] = True
            demos[number] = {"obs": obs, **demo}
            for name, array in obs.items():
                file[f"data/demo_{number}/obs/{name}"] = array[:-1]
                file[f"data/demo_{number}/next_obs/{name}"] = array[1:]
            for name, array in demo.items():
                file[f"data/demo_{number}/{name}"] = array
            file[f"data/demo_{number}"].attrs["num_samples"] = steps
            file[f"data/demo_{number}"].attrs["model_file"] = "<xml>" * 5000
        file["mask/train"] = np.array([b"demo_0", b"demo_11"])
    return demos


def test_robomimic_is_read(tmp_path):
    """In the order of numbers; final observations, states, masks and attributes; what has no place is listed."""
    demos, told = robomimic(tmp_path / "a.hdf5"), []
    buffer = import_from(tmp_path / "a.hdf5", tell=told.append)
    assert told == ["odd: not numbers for each step of every demonstration",
                    "12 attributes 'model_file' are too long for metadata, or no JSON"]  # fmt: skip
    for number, episode in enumerate(buffer.read_episodes()):
        demo = demos[number]
        for name, ours in (("robot0_eef-pos", "robot0_eef_pos"), ("image", "image")):
            np.testing.assert_array_equal(episode.obs[ours], demo["obs"][name][:-1])
            np.testing.assert_array_equal(episode.final_obs[ours], demo["obs"][name][-1])
        np.testing.assert_array_equal(episode.action, demo["actions"])
        np.testing.assert_array_equal(episode.reward, demo["rewards"])
        np.testing.assert_array_equal(episode.extras["states"], demo["states"])
        assert set(episode.extras) == {"states"}
        assert episode.ended == "terminated"
        wanted = {"demo": f"demo_{number}", "num_samples": len(episode)}
        assert episode.metadata == wanted | ({"masks": ["train"]} if number in (0, 11) else {})
    train = buffer.sample(200, 1, sampler=rv.Uniform(where={"masks": ["train"]}))
    assert set(train.anchor.tolist()) < set(range(len(buffer)))
    assert (
        import_from(tmp_path / "a.hdf5", dones="truncated", tell=told.append).episodes["ended"].tolist()
        == ["truncated"] * 12
    )
    with pytest.raises(rv.BadSetting, match="dones: wanted 'terminated' or 'truncated', got 'x'"):
        import_from(tmp_path / "a.hdf5", dones="x")


def test_a_done_before_the_end_is_a_signal(tmp_path):
    robomimic(tmp_path / "a.hdf5", signals=True)
    buffer = import_from(tmp_path / "a.hdf5", tell=[].append)
    assert buffer.episodes["length"].tolist() == [1 + number % 5 for number in range(12)]
    assert buffer.episode(4).extras["dones"].tolist() == [True, False, False, False, True]


# --- stable-worldmodel ---------------------------------------------------------------------------------------


def swm(path, **more):
    lengths, rng = np.array([4, 1, 6]), np.random.default_rng(2)
    count = int(lengths.sum())
    rows = {"pixels": rng.integers(0, 256, (count, 8, 8, 3), np.uint8), "proprio": rng.normal(size=(count, 2)),
            "action": rng.normal(size=(count, 2)).astype(np.float32), "goal.x": rng.normal(size=count),
            "reward": rng.normal(size=count).astype(np.float32), "terminated": np.zeros(count, bool),
            "ep_len": lengths, "ep_offset": np.cumsum([0, *lengths[:-1]])} | more  # fmt: skip
    if "terminated" in rows and "terminated" not in more:
        rows["terminated"][[3, 10]] = True
    with h5py.File(path, "w") as file:
        for name, array in rows.items():
            file[name] = array
    return rows


def test_swm_in_out_and_in_again(tmp_path):
    """Columns and names come back; the same next batch for the same seed; what has no place is listed."""
    rows, told = swm(tmp_path / "a.h5"), []
    first = import_from(tmp_path / "a.h5", seed=3, tell=told.append)
    assert told == []
    assert set(first.spec.obs) == {"pixels", "proprio"}
    for number, episode in enumerate(first.read_episodes()):
        here = slice(rows["ep_offset"][number], rows["ep_offset"][number] + rows["ep_len"][number])
        np.testing.assert_array_equal(episode.obs["pixels"], rows["pixels"][here])
        np.testing.assert_array_equal(episode.obs["proprio"], rows["proprio"][here])
        np.testing.assert_array_equal(episode.extras["goal_x"], rows["goal.x"][here])
        np.testing.assert_array_equal(episode.reward, rows["reward"][here])
        assert episode.ended == ("cut" if number == 1 else "terminated")
    export_to(first, tmp_path / "b.h5", "swm", tell=told.append)
    assert told == []
    with h5py.File(tmp_path / "b.h5") as file:
        for name, array in rows.items():
            np.testing.assert_array_equal(file[name][()], array)
            assert file[name].dtype == array.dtype
    second = import_from(tmp_path / "b.h5", path=tmp_path / "b.replay", seed=3)
    assert second.spec == first.spec
    batches_agree(first, second)


def test_swm_writes_any_spec_and_lists_what_it_lacks(tmp_path):
    for obs in (rv.Field((3,), "float64"), {"a": rv.Field((2,), "int16"), "b": {"c": rv.Field((), "bool")}}):
        spec = rv.StepSpec(
            obs,
            rv.Field((), "int8"),
            {"reward_float64": rv.Field((), "float64"), "z": rv.Field((), "float32")},
        )
        path, told = tmp_path / f"{type(obs).__name__}.h5", []
        buffer = rv.ReplayBuffer(spec, 30, seed=0)
        value = np.zeros(3) if isinstance(obs, rv.Field) else {"a": [1, 2], "b": {"c": True}}
        for step in range(7):
            ends = step % 3 == 2
            buffer.add(obs=value, action=1, reward=0.1, reward_float64=0.1, z=2, terminated=False, truncated=ends,
                       final_obs=value if ends else None)  # fmt: skip
        buffer.annotate(episode=0, seed=1)
        export_to(buffer, path, "swm", tell=told.append)
        assert sorted(told) == ["1 episode has metadata: it has no place", "1 episode runs, and will come back as cut",
                                "2 final observations have no place"]  # fmt: skip
        again = import_from(path)
        assert again.episodes["length"].tolist() == [3, 3, 1]
        assert again.episodes["ended"].tolist() == ["truncated", "truncated", "cut"]
        assert again.episode(0).extras["reward_float64"].tolist() == [0.1] * 3
        if isinstance(obs, rv.Field):
            assert again.spec == spec
        with pytest.raises(rv.ReplayError, match="got one that is taken"):
            export_to(buffer, path, "swm")


def test_swm_columns_that_tell_nothing(tmp_path):
    """Unknown columns need a name; no reward is told; an empty file; rows that are not there."""
    none = {"reward": None, "pixels": None, "proprio": None}
    rows = {name: array for name, array in swm(tmp_path / "a.h5").items() if name not in none}
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for name, array in rows.items():
            file[name] = array
    with pytest.raises(rv.BadSetting, match=r"which of \['goal.x'\] are observations; pass obs="):
        import_from(tmp_path / "b.h5")
    told = []
    buffer = import_from(tmp_path / "b.h5", obs="goal.x", tell=told.append)
    assert told == ["reward: there is none, and zeros stand in its place"]
    assert buffer.spec.obs == rv.Field((), "float64")
    swm(tmp_path / "c.h5", ep_len=np.array([4, 1, 60]))
    with pytest.raises(rv.FileError, match="wanted episodes among its 11 rows"):
        import_from(tmp_path / "c.h5")
    swm(tmp_path / "d.h5", terminated=np.ones(11, bool))
    with pytest.raises(rv.FileError, match="terminated at the last step of an episode only"):
        import_from(tmp_path / "d.h5")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["pixels"], file["action"] = np.zeros((0, 4, 4, 3), np.uint8), np.zeros((0, 2))
        file["ep_len"] = file["ep_offset"] = np.zeros(0, np.int64)
    assert len(import_from(tmp_path / "e.h5", tell=told.append)) == 0


@pytest.mark.parametrize("name", ["d4rl", "robomimic", "swm"])
def test_what_is_no_such_file_is_refused(name, tmp_path):
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(rv.FileError, match="wanted an HDF5 file, got none"):
        import_from(tmp_path / "text.h5", name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data/x"] = np.zeros(3)
    with pytest.raises(rv.FileError, match="wanted"):
        import_from(tmp_path / "other.h5", name)
    whole = {"d4rl": d4rl, "robomimic": robomimic, "swm": swm}[name]
    whole(tmp_path / "whole.h5")
    half = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(half[: len(half) // 2])
    with pytest.raises(rv.FileError):
        import_from(tmp_path / "half.h5", name)
    if name != "swm":
        with pytest.raises(rv.BadSetting, match="it is read only"):
            export_to(import_from(tmp_path / "whole.h5", tell=[].append), tmp_path / "out", name)
