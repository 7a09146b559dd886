"""IRIS's and Δ-IRIS's episode folders: read as torch wrote them, written so that torch reads them, there and back."""

import numpy as np
import pytest

import reverie as rv
from reverie.exchange import export_to, import_from

torch = pytest.importorskip("torch")
LENGTHS = (4, 1, 9, *[2] * 9)


def episode(number, steps, padded=0):
    """The tensors of one episode; some rows at the end may be padding."""
    dice = torch.Generator().manual_seed(number)
    ends = torch.zeros(steps + padded, dtype=torch.int64)
    ends[steps - 1] = number != 1
    ends[steps:] = 0
    return {
        "observations": torch.randint(0, 256, (steps + padded, 3, 64, 64), generator=dice, dtype=torch.uint8),
        "actions": torch.randint(0, 4, (steps + padded,), generator=dice),
        "rewards": torch.randint(-2, 3, (steps + padded,), generator=dice).float() / 2,
        "ends": ends,
        "mask_padding": torch.arange(steps + padded) < steps,
    }


def write(folder, delta=False):
    """Write a folder as IRIS does."""
    folder.mkdir()
    for number, steps in enumerate(LENGTHS):
        tensors = episode(number, steps, padded=number % 3)
        if delta:
            tensors = {name: tensor[:steps] for name, tensor in tensors.items() if name != "mask_padding"}
        torch.save(tensors, folder / f"{number}.pt")
    return folder


def check(buffer):
    assert buffer.episodes["length"].tolist() == list(LENGTHS)
    for number, found in enumerate(buffer.read_episodes()):
        wanted = episode(number, LENGTHS[number], padded=number % 3)
        steps = LENGTHS[number]
        np.testing.assert_array_equal(found.obs, wanted["observations"].numpy()[:steps])
        np.testing.assert_array_equal(found.action, wanted["actions"].numpy()[:steps])
        np.testing.assert_array_equal(found.reward, wanted["rewards"].numpy()[:steps])
        assert (found.ended, found.final_obs) == ("cut" if number == 1 else "terminated", None)


@pytest.mark.parametrize("delta", [False, True])
def test_in_out_and_in_again(delta, tmp_path):
    """Recognised by its tensors; ten and more files in the order of their numbers; the same next batch for the same seed."""
    told, name = [], "delta-iris" if delta else "iris"
    first = import_from(write(tmp_path / "theirs", delta), seed=5, tell=told.append)
    assert told == []
    check(first)
    export_to(first, tmp_path / "ours", name, tell=told.append)
    assert told == ["1 episode was cut, or runs, and has no end"]
    second = import_from(tmp_path / "ours", path=tmp_path / "a.replay", seed=5)
    check(second)
    one, other = (buffer.sample(32, 2, boundary="pad_right") for buffer in (first, second))
    for array in ("obs", "action", "reward", "terminated", "anchor"):
        np.testing.assert_array_equal(getattr(one, array), getattr(other, array))
    loaded = torch.load(tmp_path / "ours/2.pt", weights_only=True)
    wanted = {
        "observations": torch.uint8,
        "actions": torch.int64,
        "rewards": torch.float32,
        "ends": torch.int64,
        "mask_padding": torch.bool,
    }
    if delta:
        del wanted["mask_padding"]
    assert {key: tensor.dtype for key, tensor in loaded.items()} == wanted
    assert torch.equal(loaded["observations"], episode(2, 9)["observations"]) or not delta


def test_what_has_no_place_is_listed(tmp_path):
    """Final observations, truncations, extra fields, metadata."""
    spec = rv.StepSpec(rv.Field((3, 8, 8), "uint8"), rv.Field((), "int8"), {"x": rv.Field((), "float32")})
    buffer, frame, told = rv.ReplayBuffer(spec, 20, seed=0), np.zeros((3, 8, 8), np.uint8), []
    for step in range(6):
        ends = step % 3 == 2
        buffer.add(
            obs=frame,
            action=1,
            reward=0.0,
            x=0.0,
            terminated=False,
            truncated=ends,
            final_obs=frame if ends else None,
        )
    buffer.annotate(episode=0, seed=1)
    export_to(buffer, tmp_path / "out", "iris", tell=told.append)
    assert told == [
        "2 final observations have no place", "2 truncations: none is told from the other flag, and from no end",
        "2 episodes have extra fields: they have no place", "1 episode has metadata: it has no place",
    ]  # fmt: skip
    with pytest.raises(rv.ReplayError, match="got one that is taken"):
        export_to(buffer, tmp_path / "out", "iris")


def test_what_is_refused(tmp_path):
    """Steps that IRIS has no layout for; damaged files; a folder without any; objects that are no tensors."""
    floats = rv.ReplayBuffer(rv.StepSpec(rv.Field((3,), "float32"), rv.Field((), "int64")), 10, seed=0)
    with pytest.raises(rv.BadSetting, match="wanted observations that are one uint8 array"):
        export_to(floats, tmp_path / "a", "iris")
    moves = rv.ReplayBuffer(rv.StepSpec(rv.Field((3,), "uint8"), rv.Field((2,), "float32")), 10, seed=0)
    with pytest.raises(rv.BadSetting, match="wanted actions that are one integer"):
        export_to(moves, tmp_path / "a", "iris")
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(rv.FileError, match=r"wanted a folder of files such as 0\.pt"):
        import_from(tmp_path / "empty", "iris")
    folder = write(tmp_path / "cut")
    (folder / "3.pt").write_bytes((folder / "3.pt").read_bytes()[:5000])
    with pytest.raises(rv.FileError, match=r"3\.pt: wanted a dict of tensors, got none"):
        import_from(folder)
    folder = write(tmp_path / "object")
    torch.save({"observations": object()}, folder / "0.pt")
    with pytest.raises(rv.FileError, match=r"0\.pt: wanted a dict of tensors, got none"):
        import_from(folder, "iris")
    early = {**episode(0, 4), "ends": torch.tensor([0, 1, 0, 1])}
    torch.save(early, folder / "0.pt")
    with pytest.raises(rv.FileError, match="wanted an end at the last step only"):
        import_from(folder)
