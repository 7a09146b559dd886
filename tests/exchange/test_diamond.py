"""DIAMOND's episodes: read as it writes them, written so that it reads them, there and back."""

import numpy as np
import pytest

import reverie as rv
from reverie.exchange import export_to, import_from

torch = pytest.importorskip("torch")
ENDS = [(4, 1, 0), (1, 0, 1), (9, 1, 1), *[(2, 0, 0)] * 120, (3, 1, 0)]
PLACES = {0: "000/00/0/0.pt", 7: "000/00/7/7.pt", 42: "000/40/2/42.pt", 123: "100/20/3/123.pt"}


def episode(number, steps, end, trunc):
    """The values of one episode."""
    dice = torch.Generator().manual_seed(number)
    frames = torch.randint(0, 256, (steps + 1, 3, 8, 8), generator=dice, dtype=torch.uint8)
    flags = torch.zeros(2, steps, dtype=torch.uint8)
    flags[:, -1] = torch.tensor([end, trunc])
    info = {"final_observation": frames[-1].float().div(255).mul(2).sub(1)} if end or trunc else {}
    return {"obs": frames[:-1], "act": torch.randint(0, 4, (steps,), generator=dice), "end": flags[0], "trunc": flags[1],
            "rew": torch.randint(-2, 3, (steps,), generator=dice).float() / 2, "info": info}, frames[-1].numpy()  # fmt: skip


def write(folder):
    """Write a folder as DIAMOND does, whose folders are the digits of an episode's number."""
    for number, (steps, end, trunc) in enumerate(ENDS):
        digits = f"{number % 1000:03}"
        path = folder / f"{digits[0]}00" / f"{digits[1]}0" / digits[2] / f"{number}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(episode(number, steps, end, trunc)[0], path)
    torch.save({"num_episodes": len(ENDS)}, folder / "info.pt")
    return folder


def check(buffer):
    for number, (found, (steps, end, trunc)) in enumerate(zip(buffer.read_episodes(), ENDS, strict=True)):
        wanted, final = episode(number, steps, end, trunc)
        for mine, theirs in ((found.obs, "obs"), (found.action, "act"), (found.reward, "rew")):
            np.testing.assert_array_equal(mine, wanted[theirs].numpy())
        assert (found.terminated, found.truncated) == (bool(end), bool(trunc))
        if end or trunc:
            np.testing.assert_array_equal(found.final_obs, final)
        else:
            assert found.final_obs is None


def test_in_out_and_in_again(tmp_path):
    """Recognised; both flags, exact final observations; the same tensors come out; the same next batch for the same seed."""
    told = []
    first = import_from(write(tmp_path / "theirs"), seed=5, tell=told.append)
    check(first)
    export_to(first, tmp_path / "ours", "diamond", tell=told.append)
    assert told == []
    second = import_from(tmp_path / "ours", path=tmp_path / "a.replay", seed=5)
    check(second)
    one, other = (buffer.sample(32, 2, boundary="pad_right") for buffer in (first, second))
    for array in ("obs", "action", "reward", "terminated", "truncated", "anchor"):
        np.testing.assert_array_equal(one[array], other[array])
    for number, place in PLACES.items():
        mine = torch.load(tmp_path / "ours" / place, weights_only=True)
        theirs = torch.load(tmp_path / "theirs" / place, weights_only=True)
        assert mine.keys() == theirs.keys()
        for name in ("obs", "act", "rew", "end", "trunc"):
            assert torch.equal(mine[name], theirs[name]), (number, name)
            assert mine[name].dtype == theirs[name].dtype
        assert mine["info"].keys() == theirs["info"].keys()
        if mine["info"]:
            final = mine["info"]["final_observation"]
            assert final.dtype == torch.float32
            # As DIAMOND reads frames: uint8 / 255 * 2 - 1. Back in uint8 the two are the same.
            assert torch.allclose(final, theirs["info"]["final_observation"], atol=1e-6)


def test_the_counts_are_those_of_diamond(tmp_path):
    """`info.pt` has what DIAMOND's data set keeps; only it may hold arrays of NumPy."""
    export_to(import_from(write(tmp_path / "a")), tmp_path / "b", "diamond")
    info = torch.load(tmp_path / "b/info.pt", weights_only=False)
    lengths = [steps for steps, _, _ in ENDS]
    assert info["num_episodes"] == len(ENDS)
    assert info["num_steps"] == sum(lengths)
    assert info["lengths"].tolist() == lengths
    assert info["start_idx"].tolist() == np.cumsum([0, *lengths[:-1]]).tolist()
    assert info["counter_end"] == {0: sum(lengths) - 3, 1: 3}
    assert sum(info["counter_rew"].values()) == sum(lengths)


def test_what_has_no_place_is_listed(tmp_path):
    spec = rv.StepSpec(rv.Field((3, 8, 8), "uint8"), rv.Field((), "int8"), {"x": rv.Field((), "float32")})
    buffer, told = rv.ReplayBuffer(spec, 3, seed=0), []
    for step in range(5):
        buffer.add(
            obs=np.zeros((3, 8, 8), np.uint8),
            action=1,
            reward=0.0,
            x=0.0,
            terminated=step == 3,
            truncated=False,
        )
    buffer.annotate(episode=1, seed=1)
    export_to(buffer, tmp_path / "out", "diamond", tell=told.append)
    assert told == [
        "2 episodes have extra fields: they have no place", "1 episode has lost its first steps in the buffer",
        "1 episode runs, and will come back as cut", "1 episode has metadata: it has no place",
    ]  # fmt: skip
    values = torch.load(tmp_path / "out/000/00/0/0.pt", weights_only=True)
    torch.save(values | {"info": {"lives": 3}}, tmp_path / "out/000/00/0/0.pt")
    import_from(tmp_path / "out", tell=told.append)
    assert told[-1] == "1 episode has info of 'lives': it has no place"
    with pytest.raises(rv.ReplayError, match="got one that is taken"):
        export_to(buffer, tmp_path / "out", "diamond")


def test_what_is_refused(tmp_path):
    """Steps without a layout; damaged files; a folder without any; objects that are no tensors."""
    for obs, action in (((3,), ()), ((3, 8, 8), (2,))):
        buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field(obs, "uint8"), rv.Field(action, "int64")), 10, seed=0)
        with pytest.raises(rv.BadSetting, match="diamond: wanted"):
            export_to(buffer, tmp_path / "a", "diamond")
    (tmp_path / "empty").mkdir()
    with pytest.raises(rv.FileError, match=r"wanted a tree of files such as 000/00/0/0\.pt"):
        import_from(tmp_path / "empty", "diamond")
    path = write(tmp_path / "b") / "000/00/2/2.pt"
    values = torch.load(path, weights_only=True)
    for damage, words in (
        ({"end": torch.ones(9)}, "an end at the last step only"),
        ({"rew": torch.ones(3)}, "of one length"),
        ({"info": {"final_observation": torch.zeros(5)}}, "wanted a final_observation of"),
        ({"info": {"x": object()}}, "wanted a dict of tensors, got none"),
    ):
        torch.save(values | damage, path)
        with pytest.raises(rv.FileError, match=words):
            import_from(tmp_path / "b", "diamond")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(rv.FileError, match=r"2\.pt: wanted a dict of tensors, got none"):
        import_from(tmp_path / "b")


def test_float64_rewards_are_exact(tmp_path):
    values, _ = episode(0, 3, 1, 0)
    (tmp_path / "a/000/00/0").mkdir(parents=True)
    torch.save(
        values | {"rew": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)}, tmp_path / "a/000/00/0/0.pt"
    )
    assert import_from(tmp_path / "a").episode(0).extras["reward_float64"].tolist() == [0.1, 0.2, 0.3]
