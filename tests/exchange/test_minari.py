"""Minari's HDF5 files: read as they are, written so that Minari reads them, there and back."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.errors import FileMissing
from reverie.exchange import export_to, import_from

h5py = pytest.importorskip("h5py")

JUDGE = os.environ.get("REVERIE_JUDGE_MINARI", "")  # a Python that has Minari
PROGRAM = Path(__file__).parent / "judges/judge_minari.py"
LENGTHS = (5, 1, 12)


def episode(number, steps):
    """The arrays of one episode, named as Minari names them; every value tells where it belongs."""
    rng = np.random.default_rng(number)
    ends = np.zeros((2, steps), bool)
    ends[:, -1] = [number != 1, number != 2]  # the first one has both flags
    return {
        "observations/camera": rng.integers(0, 256, (steps + 1, 3, 40, 40), dtype=np.uint8),
        "observations/body/joints": rng.normal(size=(steps + 1, 4)).astype(np.float32),
        "actions": rng.integers(-5, 5, (steps, 2)),
        "rewards": rng.normal(size=steps),
        "terminations": ends[0], "truncations": ends[1],
        "infos/x-y": np.arange(steps + 1) + 100 * number,
    }  # fmt: skip


EPISODES = [episode(number, steps) for number, steps in enumerate(LENGTHS)]


def write(folder, episodes=EPISODES, **about):
    """Write a data set by hand, with h5py alone."""
    data = folder / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for number, arrays in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            for name, array in arrays.items():
                group.create_dataset(name, data=array)
            group.attrs.update(
                {
                    "id": number,
                    "seed": number + 5,
                    "options/level": number,
                    "total_steps": len(arrays["rewards"]),
                }
            )
    spaces = {
        "observation_space": json.dumps({"type": "Dict", "subspaces": {
            "camera": {"type": "Box", "dtype": "uint8", "shape": [3, 40, 40]},
            "body": {"type": "Dict", "subspaces": {"joints": {"type": "Box", "dtype": "float32", "shape": [4]}}}}}),
        "action_space": json.dumps({"type": "Box", "dtype": "int64", "shape": [2]}),
    }  # fmt: skip
    (data / "metadata.json").write_text(
        json.dumps(
            {
                "dataset_id": "tests/hand-v0",
                "minari_version": "0.5.4",
                "jpeg_encoding": False,
                **spaces,
                **about,
            }
        )
    )
    return folder


def check(buffer, episodes=EPISODES):
    """Compare a buffer with the arrays of some episodes."""
    assert len(buffer.episodes) == len(episodes)
    for number, (found, wanted) in enumerate(zip(buffer.read_episodes(), episodes, strict=True)):
        for name in ("camera", "body/joints"):
            rows, final = found.obs, found.final_obs
            for part in name.split("/"):
                rows, final = rows[part], final[part]
            whole = np.concatenate([rows, final[None]])
            np.testing.assert_array_equal(whole, wanted[f"observations/{name}"])
            assert whole.dtype == wanted[f"observations/{name}"].dtype
        np.testing.assert_array_equal(found.action, wanted["actions"])
        np.testing.assert_array_equal(found.extras["reward_float64"], wanted["rewards"])
        np.testing.assert_array_equal(found.reward, wanted["rewards"].astype(np.float32))
        np.testing.assert_array_equal(found.extras["x_y"], wanted["infos/x-y"][:-1])
        assert (found.terminated, found.truncated) == (wanted["terminations"][-1], wanted["truncations"][-1])
        assert found.metadata == {"id": number, "seed": number + 5, "options/level": number}


def test_everything_is_read(tmp_path):
    """Arrays, dtypes, both flags, float64 rewards, infos, metadata; recognised without a name, into memory and into a file."""
    folder, told = write(tmp_path / "set"), []
    with import_from(folder, tell=told.append) as buffer:
        check(buffer)
    with import_from(folder, "minari", path=tmp_path / "a.replay", tell=told.append) as buffer:
        check(buffer)
    with rv.open(tmp_path / "a.replay", mode="r") as buffer:
        check(buffer)
    assert told == []


def test_there_and_back(tmp_path):
    """The same next batch for the same seed; Minari's names of infos and its id come back, too."""
    folder = write(tmp_path / "set")
    first = import_from(folder, seed=3)
    export_to(first, tmp_path / "again", "minari", tell=pytest.fail)
    second = import_from(tmp_path / "again", seed=3)
    check(second)
    one, other = first.sample(32, 1, boundary="pad_right"), second.sample(32, 1, boundary="pad_right")
    for name in ("reward", "is_first", "terminated", "truncated", "anchor", "obs_mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.obs["camera"], other.obs["camera"])
    about = json.loads((tmp_path / "again/data/metadata.json").read_text())
    assert about["dataset_id"] == "tests/hand-v0"
    assert (about["total_episodes"], about["total_steps"], about["jpeg_encoding"]) == (3, sum(LENGTHS), False)


def test_sizes_where_others_broke(tmp_path):
    """40,000 steps in one episode, an empty data set, episodes in the order of their numbers, not of their names."""
    long = {
        "observations/camera": np.zeros((40_001, 1, 1, 1), np.uint8), "observations/body/joints": np.zeros((40_001, 1), np.float32),
        "actions": np.arange(40_000)[:, None] % 7, "rewards": np.zeros(40_000), "terminations": np.arange(40_000) == 39_999,
        "truncations": np.zeros(40_000, bool), "infos/x-y": np.arange(40_001),
    }  # fmt: skip
    with import_from(write(tmp_path / "long", [long])) as buffer:
        assert buffer.episodes["length"].tolist() == [40_000]
        np.testing.assert_array_equal(buffer.episode(0).extras["x_y"], np.arange(40_000))
    with import_from(write(tmp_path / "empty", [])) as buffer:
        assert len(buffer) == 0
        assert buffer.spec.obs["body"]["joints"] == rv.Field((4,), "float32")
    many = [episode(number, 1) for number in range(12)]
    with import_from(write(tmp_path / "many", many)) as buffer:
        assert [label["id"] for label in buffer.episodes.metadata] == list(range(12))


def test_what_would_change_is_refused(tmp_path):
    """JPEG on the way in, a final observation that nobody knows on the way out: each only if it is named."""
    about = {
        "jpeg_encoding": True,
        "observation_space": json.dumps({"type": "Box", "dtype": "uint8", "shape": [64, 64, 3]}),
    }
    with pytest.raises(rv.BadSetting, match=r"pass lossy=\('jpeg',\)"):
        import_from(write(tmp_path / "jpeg", **about))
    buffer = import_from(write(tmp_path / "set"), capacity=40)
    buffer.add(obs={"camera": np.zeros((3, 40, 40), np.uint8), "body": {"joints": np.zeros(4, np.float32)}}, action=np.zeros(2, int),
               reward=0.0, terminated=False, truncated=False, x_y=0, reward_float64=0.0)  # fmt: skip
    with pytest.raises(rv.BadSetting, match=r"pass lossy=\('final_obs',\)"):
        export_to(buffer, tmp_path / "out", "minari")
    assert not (tmp_path / "out").exists()
    told = []
    export_to(buffer, tmp_path / "out", "minari", lossy=("final_obs",), tell=told.append)
    assert told == [
        "1 final observation is not known, and the last one stands in for it",
        "1 episode was cut, or runs: neither flag is set at the last step",
    ]
    with pytest.raises(rv.ReplayError, match="got one that is taken"):
        export_to(buffer, tmp_path / "out", "minari", lossy=("final_obs",))


def test_damage_is_told(tmp_path):
    """A file cut short, an episode that lacks a part, no file: errors in words."""
    folder = write(tmp_path / "set")
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        del file["episode_1/actions"]
    with pytest.raises(rv.FileError, match="wanted /episode_1 whole, got it damaged"):
        import_from(folder)
    main = write(tmp_path / "cut") / "data/main_data.hdf5"
    main.write_bytes(main.read_bytes()[:1000])
    with pytest.raises(rv.FileError, match="check the path"):
        import_from(tmp_path / "cut")
    with pytest.raises(FileMissing, match="no id of a Minari data set"):
        import_from(tmp_path / "nothing")


@pytest.mark.skipif(not JUDGE, reason="REVERIE_JUDGE_MINARI names no Python that has Minari")
def test_minari_reads_what_is_written_and_is_read_itself(tmp_path):
    """The judge writes a data set, which is read; it is written again, and the judge finds every array equal."""
    arrays = {f"{number}/{name}": array for number, one in enumerate(EPISODES) for name, array in one.items()}
    np.savez(tmp_path / "arrays.npz", **arrays)

    def judge(verb, root):
        command = [JUDGE, PROGRAM, verb, tmp_path / root, "tests/three-v0", tmp_path / "arrays.npz"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    done = judge("write", "theirs")
    assert done.returncode == 0, done.stderr
    told = []
    with import_from(tmp_path / "theirs/tests/three-v0", tell=told.append) as buffer:
        check(buffer)
        export_to(buffer, tmp_path / "ours/tests/three-v0", "minari", tell=told.append)
    assert told == []
    for name in arrays:  # what lies beside a final observation is not known, and repeated
        if name.endswith("infos/x-y"):
            arrays[name] = np.concatenate([arrays[name][:-1], arrays[name][-2:-1]])
    np.savez(tmp_path / "arrays.npz", **arrays)
    done = judge("read", "ours")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 episodes, 0 differences" in done.stdout


@pytest.mark.skipif(not JUDGE, reason="REVERIE_JUDGE_MINARI names no Python that has Minari")
@pytest.mark.parametrize("noise", [0, 255])
def test_images_that_minari_has_encoded_are_near(noise, tmp_path):
    """They are read if it is asked for by name: smooth ones are nearly right, noise is not. Bytes of any length a step."""
    smooth = np.add.outer(np.arange(64), np.arange(48))[None, :, :, None] + np.arange(4)[:, None, None, None]
    images = (smooth + np.random.default_rng(0).integers(0, noise + 1, (4, 64, 48, 3))).astype(np.uint8)
    np.savez(tmp_path / "arrays.npz", **{
        "0/observations/img": images, "0/observations/x": np.zeros((4, 2), np.float32), "0/actions": np.zeros((3, 1), np.float32),
        "0/rewards": np.zeros(3), "0/terminations": np.arange(3) == 2, "0/truncations": np.zeros(3, bool),
    })  # fmt: skip
    command = [JUDGE, PROGRAM, "write", tmp_path, "tests/jpeg-v0", tmp_path / "arrays.npz", "jpeg"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    told = []
    with import_from(tmp_path / "tests/jpeg-v0", lossy=("jpeg",), tell=told.append) as buffer:
        found = buffer.episode(0).obs["img"].astype(int)
        assert buffer.spec.obs["x"] == rv.Field((2,), "float32")
    assert found.shape == (3, 64, 48, 3)
    assert (np.abs(found - images[:3]).max() < 40) == (noise == 0)
    assert told == ["images: JPEG has changed their values before they came here"]
