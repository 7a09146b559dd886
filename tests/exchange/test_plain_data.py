"""Lists of dicts, our own npz, imitation's trajectories, and what is common to all formats."""

import os
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.errors import FileMissing
from reverie.exchange import Incoming, NotHeld, export_to, formats, import_from, register
from reverie.exchange.names import our_names

DATA = Path(os.environ.get("REVERIE_DATA", "."))


def lists(seed=0):
    """Three episodes: terminated with both flags and T+1 observations; truncated with final_obs; cut, of one step."""
    rng = np.random.default_rng(seed)
    return [
        {"observations": rng.normal(size=(5, 3)).astype(np.float32), "actions": np.arange(4), "rewards": np.ones(4, np.float32) / 4,
         "terminals": [0, 0, 0, 1], "timeouts": np.array([0, 0, 0, 1]), "a.b": np.arange(4), "metadata": {"task": "fetch"}},
        {"obs": rng.normal(size=(2, 3)).astype(np.float32), "action": np.arange(2), "reward": np.ones(2, np.float32),
         "truncated": True, "final_obs": np.full(3, 7, np.float32), "a.b": np.arange(2)},
        {"obs": rng.normal(size=(1, 3)).astype(np.float32), "action": np.arange(1), "reward": np.zeros(1), "a.b": np.arange(1)},
    ]  # fmt: skip


def same(one, other):
    """Two episodes show the same."""
    for name in ("obs", "action", "reward"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.extras["a_b"], other.extras["a_b"])
    assert (one.terminated, one.truncated, one.metadata) == (
        other.terminated,
        other.truncated,
        other.metadata,
    )
    assert (one.final_obs is None) == (other.final_obs is None)
    if one.final_obs is not None:
        np.testing.assert_array_equal(one.final_obs, other.final_obs)


def test_a_list_of_dicts(tmp_path):
    """Each spelling of the names; extras under names that identifiers cannot have; ends, cuts and metadata."""
    with import_from(lists(), seed=0) as buffer:
        assert buffer.spec == rv.StepSpec(
            rv.Field((3,), "float32"), rv.Field((), "int64"), {"a_b": rv.Field((), "int64")}
        )
        assert buffer.episodes["ended"].tolist() == ["terminated", "truncated", "cut"]
        first, second, third = buffer.read_episodes()
        assert (first.terminated, first.truncated, first.metadata) == (True, True, {"task": "fetch"})
        np.testing.assert_array_equal(first.obs, lists()[0]["observations"][:4])
        np.testing.assert_array_equal(first.final_obs, lists()[0]["observations"][4])
        np.testing.assert_array_equal(first.extras["a_b"], np.arange(4))
        np.testing.assert_array_equal(second.final_obs, np.full(3, 7))
        assert (len(third), third.final_obs) == (1, None)


def test_there_and_back_in_our_own_file(tmp_path):
    """Every array, end and piece of metadata; the same next batch for the same seed; some episodes alone."""
    first = import_from(lists(), seed=4)
    export_to(first, tmp_path / "a.npz", "npz", tell=pytest.fail)
    second = import_from(tmp_path / "a.npz", seed=4, tell=pytest.fail)
    one, other = first.sample(64, 1, boundary="pad_both"), second.sample(64, 1, boundary="pad_both")
    for name in ("obs", "action", "reward", "terminated", "truncated", "obs_mask", "anchor"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert second.episodes.metadata == first.episodes.metadata
    assert second.engine.memories.notes["exchange"]["names"] == {"extras/a_b": "a.b"}
    export_to(first, tmp_path / "b.npz", "npz", episodes=[-1, 0])
    assert import_from(tmp_path / "b.npz").episodes["length"].tolist() == [1, 4]
    with np.load(tmp_path / "a.npz") as file:  # NumPy alone reads it
        np.testing.assert_array_equal(file["1/final/obs"], np.full(3, 7))


def test_a_buffer_of_frames_goes_out_and_comes_back(tmp_path):
    """Nested observations, an evicted beginning and a running episode, which are told of."""
    spec = rv.StepSpec(
        {"camera": rv.Field((2, 8, 8), "uint8"), "x": rv.Field((), "float64")}, rv.Field((), "int64")
    )
    told = []
    with rv.ReplayBuffer(spec, 50, seed=0, path=tmp_path / "a.replay") as buffer:
        for step in range(70):
            buffer.add(obs={"camera": np.full((2, 8, 8), step, np.uint8), "x": step / 3}, action=step, reward=step, terminated=step == 30,
                       truncated=False, final_obs={"camera": np.zeros((2, 8, 8), np.uint8), "x": 0.1} if step == 30 else None)  # fmt: skip
        export_to(buffer, tmp_path / "a.npz", "npz", tell=told.append)
    assert told == [
        "1 episode has lost its first steps in the buffer",
        "1 episode runs, and will come back as cut",
    ]
    with import_from(tmp_path / "a.npz", path=tmp_path / "b.replay") as back:
        assert back.spec == spec
        assert back.episodes["ended"].tolist() == ["terminated", "cut"]
        np.testing.assert_array_equal(back.episode(0).obs["camera"][:, 0, 0, 0], np.arange(20, 31))
        assert back.episode(0).final_obs["x"] == 0.1


def trajectories(path, **more):
    """Two trajectories as imitation writes them."""
    np.savez(path, obs=np.arange(14, dtype=np.float32).reshape(7, 2), acts=np.arange(5), rews=np.array([0.1, 1, 1, 1, 1]),
             terminal=np.array([True, False]), indices=np.array([3]), **more)  # fmt: skip
    return path


def test_trajectories_of_imitation(tmp_path):
    """Rewards that float32 does not hold stay exact; a trajectory that is not terminal is cut; pickled infos are left."""
    told = []
    infos = np.array([{}, {}, {}, {}, {}], dtype=object)
    with import_from(trajectories(tmp_path / "a.npz", infos=infos), tell=told.append) as buffer:
        assert buffer.episodes["ended"].tolist() == ["terminated", "cut"]
        one, other = buffer.read_episodes()
        assert [one.obs[:, 0].tolist(), one.final_obs.tolist()] == [[0, 2, 4], [6, 7]]
        assert [other.obs[:, 0].tolist(), other.final_obs.tolist()] == [[8, 10], [12, 13]]
        assert one.extras["reward_float64"].tolist() == [0.1, 1, 1]
    assert told == ["infos: pickled objects, which are never read"]


@pytest.mark.skipif(
    not (DATA / "imitation-cartpole.npz").exists(), reason="REVERIE_DATA names no folder with it"
)
@pytest.mark.parametrize(("name", "steps", "count"), [("cartpole", 26_964, 57), ("pendulum", 11_200, 56)])
def test_real_trajectories(name, steps, count):
    """Of the repository HumanCompatibleAI/imitation: every observation comes in, in order."""
    path = DATA / f"imitation-{name}.npz"
    with import_from(path, tell=lambda line: None) as buffer, np.load(path) as file:
        assert (len(buffer), len(buffer.episodes)) == (steps, count)
        rows = [np.concatenate([one.obs, one.final_obs[None]]) for one in buffer.read_episodes()]
        np.testing.assert_array_equal(np.concatenate(rows), file["obs"])


def test_into_an_open_buffer(tmp_path):
    """Its running episode is cut, not joined; the newest stay; other fields are named in the error."""
    spec = rv.StepSpec(rv.Field((3,), "float32"), rv.Field((), "int64"), {"a_b": rv.Field((), "int64")})
    buffer = rv.ReplayBuffer(spec, 18, streams=2, seed=0)
    for _ in range(3):
        buffer.add(
            obs=np.zeros(3, np.float32),
            action=0,
            reward=0.0,
            terminated=False,
            truncated=False,
            a_b=0,
            stream=1,
        )
    assert import_from(lists(), into=buffer, stream=1) is buffer
    assert buffer.episodes["length"].tolist() == [3, 4, 2, 1]
    assert buffer.episodes["live"].tolist() == [2, 4, 2, 1]
    other = rv.ReplayBuffer(rv.StepSpec(rv.Field((4,), "float32"), rv.Field((), "int64")), 10, seed=0)
    with pytest.raises(
        rv.BadSetting,
        match=r"into: wanted a buffer with the fields of the data set, got 'extras/a_b' as none",
    ):
        import_from(lists(), into=other)


def test_a_format_of_your_own():
    """It is found by its name and by what it recognises; what it lost is warned of."""

    class Ones:
        name, reads, writes = "ones", True, False

        def recognises(self, source):
            return source == "ones"

        def open(self, source, **options):
            spec = rv.StepSpec(rv.Field((), "float32"), rv.Field((), "int8"))
            rows = np.ones(4, np.float32)
            whole = [
                rv.Episode(rows, rows.astype(np.int8), rows, running=piece == 0, terminated=piece == 1)
                for piece in range(2)
            ]
            return Incoming(spec, iter(whole), 8, lost=["twos"])

        def save(self, target, outgoing, **options):
            raise NotImplementedError

    register(Ones())
    assert "ones" in formats()
    with pytest.warns(NotHeld, match="twos"):
        buffer = import_from("ones")
    assert buffer.episodes["length"].tolist() == [8]  # two pieces of one episode
    with pytest.raises(rv.BadSetting, match="it is read only"):
        export_to(buffer, "x", "ones")


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        ([], {}, "wanted a list of at least one dict of arrays"),
        ([{"obs": np.zeros((2, 1))}], {}, r"episode 0: wanted one of \['reward', 'rewards'\]"),
        ([{"obs": np.zeros((4, 1)), "action": np.zeros(2), "reward": np.zeros(2)}], {}, "wanted observations of 2 steps, or 3"),
        ([{"obs": np.zeros((2, 1)), "action": np.zeros(2), "reward": np.zeros(2), "terminated": [1, 0]}], {}, "wanted terminated at its last step"),
        (object(), {}, "looks like none of them; name its format"),
        ([], {"format": "hdf6"}, "wanted one of "),
        (lists(), {"colour": 1}, r"wanted options none, got \['colour'\]"),
    ],
)  # fmt: skip
def test_what_is_refused(source, given, message):
    """In words, and nothing has been made."""
    with pytest.raises(rv.BadSetting, match=message):
        import_from(source, **given)


def test_a_path_that_leads_to_nothing_and_one_of_ours(tmp_path):
    """Each is told from a data set that nobody recognises."""
    with pytest.raises(FileMissing, match="nothing: wanted a data set, got no file or folder"):
        import_from(tmp_path / "nothing")
    rv.ReplayBuffer(
        rv.StepSpec(rv.Field((), "int8"), rv.Field((), "int8")), 4, path=tmp_path / "a.replay"
    ).close()
    with pytest.raises(rv.BadSetting, match=r"got an SQLite file; reverie.open\('.*a.replay'\) opens it"):
        import_from(tmp_path / "a.replay")
    with pytest.raises(rv.BadSetting, match="buffer: wanted a ReplayBuffer or a Union, got"):
        export_to(tmp_path / "a.replay", tmp_path / "x.npz", "npz")


def test_a_union_goes_out_as_one_data_set(tmp_path):
    """The episodes of all parts, those of the first part first; some of them by their numbers in the union."""
    parts = [import_from(lists(), tell=[].append) for _ in range(2)]
    with rv.Union(parts) as union:
        wanted = [one for part in parts for one in part.read_episodes()]
        export_to(union, tmp_path / "all.npz", "npz")
        export_to(union, tmp_path / "some.npz", "npz", episodes=[-1, 0, 4])
        for name, numbers in (("all", range(6)), ("some", [5, 0, 4])):
            found = list(import_from(tmp_path / f"{name}.npz").read_episodes())
            assert len(found) == len(numbers)
            for number, one in zip(numbers, found, strict=True):
                same(one, wanted[number])
                same(union.episode(number), wanted[number])
        with pytest.raises(IndexError, match=r"wanted an episode in -6\.\.5, got 6"):
            union.episode(6)


def test_names_are_made_ours_and_unique():
    """Identifiers stay; dots, dashes, slashes, digits and reserved names are replaced; no two are the same."""
    names = ["a.b", "a_b", "a/b", "observation.state", "7", "reward", "x"]
    found = our_names(names)
    assert found["a_b"] == "a_b"
    assert found["x"] == "x"
    assert len(set(found.values())) == len(names)
    assert found == {"a.b": "a_b_2", "a_b": "a_b", "a/b": "a_b_3", "observation.state": "observation_state", "7": "_7",
                     "reward": "_reward", "x": "x"}  # fmt: skip
