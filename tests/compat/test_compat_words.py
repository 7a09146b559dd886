"""Every error that can reach a user of the drop-in classes speaks of what these classes have."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_compat import SHAPE, frame, make
from test_compat_on_policy import engine_buffer, trajectory

import reverie as rv

# What the drop-in classes have not, or call otherwise.
FOREIGN = re.compile(r"add_batch|\bField\b|StepSpec|\bspec\b|boundary|residency|mode=|capacity|write_back|sampler|"
                     r"(?<!IRISReplayBuffer\.)\bopen\(|reverie\.open|rv\.open|max_bytes")  # fmt: skip


def iris(**settings) -> rv.IRISReplayBuffer:
    return rv.IRISReplayBuffer(**{"size": 10, "obs_shape": SHAPE, "action_size": 3, **settings})


def filled(steps: int = 4, end: bool = False) -> rv.IRISReplayBuffer:
    buffer = make(10)
    for number in range(steps):
        buffer.add(frame(number), 0, 0.0, end)
    return buffer


def closed() -> rv.IRISReplayBuffer:
    buffer = filled()
    buffer.close()
    return buffer


def kept(path: Path) -> rv.IRISReplayBuffer:
    buffer = iris(path=path / "kept.replay")
    buffer.add(frame(1), 0, 0.0, False)
    return buffer


def spoiled(name: str, place: int, value: object) -> rv.IRISReplayBuffer:
    buffer = filled()
    getattr(buffer, name)[place] = value
    buffer.steps = 4
    return buffer


def step(**values) -> Callable[[Path], object]:
    """Add a step with one wrong value to both classes' buffers, one after the other."""
    given = {"obs": frame(1), "action": 0, "reward": 0.0, "terminal": False, **values}

    def call(path: Path) -> None:
        with pytest.raises(rv.ReplayError):
            make(10).add(**given)
        trajectory(2, end="").add(**given)

    return call


def other_file(path: Path) -> None:
    rv.ReplayBuffer(engine_buffer().spec, 10, path=path / "other.replay").close()
    rv.IRISReplayBuffer.open(path / "other.replay")


def damaged_file(path: Path) -> None:
    kept(path).close()
    (path / "kept.replay").write_bytes((path / "kept.replay").read_bytes()[:5000])
    rv.IRISReplayBuffer.open(path / "kept.replay")


def no_replay_file(path: Path) -> None:
    (path / "text").write_text("something else, and long enough to be one" * 100)
    rv.IRISReplayBuffer.open(path / "text")


def taken_path(path: Path) -> None:
    (path / "taken").write_text("")
    iris(path=path / "taken")


def second_writer(path: Path) -> None:
    with kept(path):
        rv.IRISReplayBuffer.open(path / "kept.replay")


def own_copy(path: Path) -> None:
    with kept(path) as buffer:
        buffer.save_as(path / "kept.replay")


def foreign_copy(path: Path) -> None:
    (path / "taken").write_text("")
    with kept(path) as buffer:
        buffer.save_as(path / "taken")


def vanished(path: Path) -> None:
    buffer = kept(path)
    (path / "kept.replay").unlink()
    try:
        buffer.flush()
    finally:
        with pytest.raises(rv.FileError):
            buffer.close()


def uneven() -> rv.IRISOnPolicyBuffer:
    buffer = trajectory(2)
    buffer.rewards.pop()
    return buffer


CASES: dict[str, Callable[[Path], object]] = {
    **{f"{name}={value!r}": lambda path, name=name, value=value: iris(**{name: value})
       for name, values in {"size": (0, 2.5, 2**70), "obs_shape": ((), (0, 4), "ab", (1.5,)), "action_size": (0, None),
                            "seq_len": (0, "4"), "batch_size": (0,), "seed": (-1,), "path": (3,)}.items()
       for value in values},
    "too large": lambda path: iris(size=10**12, obs_shape=(3, 64, 64)),
    "max_steps": lambda path: rv.IRISOnPolicyBuffer(0),
    # values
    "batch axis": step(obs=frame(1)[None]), "another shape": step(obs=np.zeros((3, 2, 2), np.uint8)),
    "ragged": step(obs=[[[1, 2], [3]]]), "floats": step(obs=frame(1) / 255), "int64": step(obs=frame(1).astype(int)),
    "list over 255": step(obs=[[[1, 2], [3, 256]]]), "masked": step(obs=np.ma.masked_array(frame(1))),
    "text": step(obs="frame"), "dict": step(obs={"camera": frame(1)}), "None": step(obs=None),
    "channels last": lambda path: rv.IRISReplayBuffer(9, (3, 8, 8), 3).add(np.zeros((8, 8, 3), np.uint8), 0, 0.0, False),
    **{f"action {value!r}": step(action=value) for value in ([0.0, 1.0], [[1.0]], True, None, "left", np.nan, 2**70, 1.5)},
    "index": lambda path: make(9).add(frame(1), 3, 0.0, False),
    **{f"reward {value!r}": step(reward=value) for value in (np.nan, None, "1", 1e39)},
    **{f"terminal {value!r}": step(terminal=value) for value in (np.nan, None, "yes", 2, 0.5)},
    "truncated": step(truncated=1), "early final_obs": step(final_obs=frame(1)),
    "final_obs": step(final_obs=frame(1) / 255, truncated=True),
    "shape of final_obs": step(final_obs=frame(1)[None], terminal=True),
    # drawing
    "empty": lambda path: make(9).sample_sequence(), "empty, padded": lambda path: make(9).sample_padded(),
    "empty, single": lambda path: make(9).sample_single(), "empty, frames": lambda path: make(9).sample_frames(1),
    "empty, burn-in": lambda path: make(9).sample_with_burn_in(1, 1),
    "short episodes": lambda path: filled(end=True).sample_sequence(2),
    "unsettled": lambda path: filled(1).sample_padded(),
    **{f"seq_len {value!r}": lambda path, value=value: filled().sample_sequence(value) for value in (0, 11, 1.5, "3", 2**70)},
    **{f"padded {value!r}": lambda path, value=value: filled().sample_padded(value) for value in (0, 11)},
    "frames": lambda path: filled().sample_frames(0), "burn-in": lambda path: filled().sample_with_burn_in(1, -1),
    "burn-in batch": lambda path: filled().sample_with_burn_in(0, 1),
    # arrays and counters
    "counter": lambda path: setattr(make(9), "idx", 9), "array": lambda path: setattr(make(9), "rewards", np.zeros(9)),
    "no terminal": lambda path: spoiled("terminals", 1, 0.5).sample_sequence(1),
    "no reward": lambda path: spoiled("rewards", 1, np.nan).sample_sequence(1),
    # closed
    **{f"closed, {name}": lambda path, call=call: call(closed()) for name, call in {
        "add": lambda buffer: buffer.add(frame(1), 0, 0.0, False), "cut": lambda buffer: buffer.cut(),
        "sample": lambda buffer: buffer.sample_sequence(1), "padded": lambda buffer: buffer.sample_padded(1),
        "single": lambda buffer: buffer.sample_single(), "frames": lambda buffer: buffer.sample_frames(1),
        "burn-in": lambda buffer: buffer.sample_with_burn_in(1, 1), "flush": lambda buffer: buffer.flush(),
        "move": lambda buffer: trajectory(2).move_to(buffer)}.items()},
    "closed, save_as": lambda path: closed().save_as(path / "copy.replay"),
    # the file
    "missing": lambda path: rv.IRISReplayBuffer.open(path / "none.replay"),
    "folder": lambda path: rv.IRISReplayBuffer.open(path), "no path": lambda path: rv.IRISReplayBuffer.open(3),
    "no folder": lambda path: iris(path=path / "none" / "kept.replay"),
    "other file": other_file, "damaged": damaged_file, "no replay file": no_replay_file, "taken": taken_path,
    "second writer": second_writer, "own copy": own_copy, "foreign copy": foreign_copy, "vanished": vanished,
    # the trajectory
    "full": lambda path: trajectory(3, max_steps=3).add(frame(1), 0, 0.0, False),
    "uneven": lambda path: uneven().get_arrays(), "uneven, move": lambda path: uneven().move_to(make(9)),
    "no list": lambda path: (buffer := trajectory(2), setattr(buffer, "rewards", ()), buffer.get_arrays()),
    "no buffer": lambda path: trajectory(2).move_to([]), "stream": lambda path: trajectory(2).move_to(make(9), stream=1),
    "stream -1": lambda path: trajectory(2).move_to(engine_buffer(), stream=-1),
    "shape of the target": lambda path: trajectory(2).move_to(rv.IRISReplayBuffer(9, (2, 2), 3)),
    "actions of the target": lambda path: trajectory(4).move_to(rv.IRISReplayBuffer(9, SHAPE, 2)),
    "extras of the target": lambda path: trajectory(2).move_to(engine_buffer(clock=rv.Field((), "int64"))),
    "frames of a ReplayBuffer": lambda path: trajectory(2).move_to(
        rv.ReplayBuffer(rv.StepSpec(rv.Field((2, 2), "uint8"), rv.Field((), "int64")), 9)),
    "actions of a ReplayBuffer": lambda path: trajectory(2).move_to(
        rv.ReplayBuffer(rv.StepSpec(rv.Field(SHAPE, "uint8"), rv.Field((3,), "float32")), 9)),
    "dict of a ReplayBuffer": lambda path: trajectory(2).move_to(
        rv.ReplayBuffer(rv.StepSpec({"a": rv.Field(SHAPE, "uint8")}, rv.Field((), "int64")), 9)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_error_is_in_the_words_of_these_classes(case, tmp_path):
    """It says what was wanted and what came, and its remedy names nothing that the classes have not."""
    with pytest.raises(rv.ReplayError) as caught:
        CASES[case](tmp_path)
    text = str(caught.value).replace(str(tmp_path), "")
    assert "wanted" in text
    assert re.search(r"[;:] \w.*\w", text)
    assert not FOREIGN.search(text), text


def test_there_is_a_case_for_every_public_method():
    """Each method and each keyword of the constructors is called in vain above."""
    source = Path(__file__).read_text()
    for kind in (rv.IRISReplayBuffer, rv.IRISOnPolicyBuffer):
        for name, member in vars(kind).items():
            if not name.startswith("_") and callable(member) and name not in ("close", "clear"):
                assert re.search(rf"\.{name}\(", source), name
