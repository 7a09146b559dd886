"""`reverie import` and `reverie export`: what they print, and what is there afterwards."""

import hashlib

import numpy as np
import pytest

import reverie as rv
from reverie.cli import main


@pytest.fixture
def source(tmp_path):
    """Two trajectories as imitation writes them."""
    path = tmp_path / "carts.npz"
    np.savez(path, obs=np.arange(14, dtype=np.float32).reshape(7, 2), acts=np.arange(5), rews=np.ones(5),
             terminal=np.array([True, True]), indices=np.array([3]), infos=np.array([{}], dtype=object))  # fmt: skip
    return path


def test_in_and_out_again(source, tmp_path, capsys):
    """Each says what came of it, where it is, and what could not be held."""
    replay, out = tmp_path / "carts.replay", tmp_path / "out.npz"
    assert main(["import", str(source), "--out", str(replay)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "imported  5 steps in 2 episodes"
    assert lines[1].startswith(f"file      {replay}, ")
    assert lines[2:] == ["not held  infos: pickled objects, which are never read"]
    assert main(["export", str(replay), "--to", f"npz:{out}", "--episodes", "-1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"exported  1 episode to npz:{out}", "not held  nothing: everything is there",
    ]  # fmt: skip
    assert main(["import", str(out), "--out", str(tmp_path / "one.replay")]) == 0
    with rv.open(tmp_path / "one.replay", mode="r") as buffer:
        assert buffer.episode(0).obs.tolist() == [[8, 9], [10, 11]]


def test_the_checksum_is_that_of_the_arrays(source, tmp_path, capsys):
    """One line for each part of an observation: the bytes of the data set, final observations in their places."""
    assert main(["import", str(source), "--out", str(tmp_path / "carts.replay"), "--checksum"]) == 0
    wanted = hashlib.sha256(np.arange(14, dtype=np.float32).tobytes()).hexdigest()
    assert capsys.readouterr().out.splitlines()[1] == f"sha256    {wanted} obs"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["import", "{source}", "--out", "{taken}"], "wanted a path that is free, got one that exists"),
        (["import", "{source}", "--out", "{free}", "--format", "hdf6"], "format: wanted one of "),
        (["import", "{taken}", "--out", "{free}"], "got an SQLite file; reverie.open("),
        (["export", "{taken}", "--to", "npz"], "put a colon between them"),
        (["export", "{taken}", "--to", "imitation:x"], "it is read only"),
        (["export", "{taken}", "--to", "npz:{free}", "--episodes", "7"], "--episodes: wanted one numbered 0 to 1, got 7; reverie inspect"),
        (["export", "{taken}", "--to", "npz:{source}"], "wanted a path that is free, got one that is taken"),
    ],
)  # fmt: skip
def test_what_is_refused(command, message, source, tmp_path, capsys):
    """One line on stderr, status 2, and nothing is left behind."""
    taken, free = tmp_path / "taken.replay", tmp_path / "free"
    main(["import", str(source), "--out", str(taken)])
    capsys.readouterr()
    assert main([word.format(source=source, taken=taken, free=free) for word in command]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not free.exists()


def test_an_import_that_fails_leaves_no_file(tmp_path, capsys):
    """A data set that is damaged in the middle is no half of one."""
    source, out = tmp_path / "a.npz", tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((2,), "float32"), rv.Field((), "int64")), 10, seed=0)
    for step in range(10):
        buffer.add(
            obs=np.zeros(2, np.float32), action=0, reward=0.0, terminated=step % 5 == 4, truncated=False
        )
    from reverie.exchange import export_to

    export_to(buffer, source, "npz")
    arrays = dict(np.load(source))
    del arrays["1/action"]
    np.savez(source, **arrays)
    assert main(["import", str(source), "--out", str(out)]) == 2
    assert "wanted episode 1, got a damaged one" in capsys.readouterr().err
    assert not out.exists()
