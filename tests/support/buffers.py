"""Small specs and comparisons that several engine tests share."""

import sys
import threading

import numpy as np

import reverie as rv
from reverie.testing import NaiveBuffer


def scalar_spec() -> rv.StepSpec:
    """A step whose observation is one integer: enough to tell every step from every other."""
    return rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))


def rich_spec() -> rv.StepSpec:
    """Nested observations of several dtypes, a vector action and two extras."""
    obs = {
        "camera": rv.Field((2, 3), "uint8"),
        "body": {"joints": rv.Field((3,), "float32"), "touch": rv.Field((), "bool")},
    }
    extras = {"logits": rv.Field((2,), "float32"), "clock": rv.Field((), "int64")}
    return rv.StepSpec(obs, rv.Field((2,), "float32"), extras)


def rich_obs(number: int) -> dict:
    """An observation of `rich_spec` that no other number gives."""
    return {
        "camera": np.full((2, 3), number % 256, np.uint8),
        "body": {"joints": np.array([number, -number, 0.5], np.float32), "touch": np.bool_(number % 2)},
    }


def rich_step(number: int, **ends) -> dict:
    """A step of `rich_spec` that no other number gives."""
    return {
        "obs": rich_obs(number),
        "action": np.array([number, 0.25], np.float32),
        "reward": float(number % 7),
        "logits": np.array([number, number + 1], np.float32),
        "clock": number,
        "terminated": False,
        "truncated": False,
        **ends,
    }


def fill(buffer, steps: int, mean_length: float, seed: int, final: bool = True) -> NaiveBuffer:
    """Add scalar steps in episodes of geometric length to every stream; return the twin that saw the same."""
    twin = NaiveBuffer(buffer.capacity, buffer.streams)
    rng = np.random.default_rng(seed)
    for number in range(steps):
        for stream in range(buffer.streams):
            ends = rng.random() < 1 / mean_length
            step = {"obs": number, "action": -number, "reward": 1.0, "terminated": bool(ends), "truncated": False,
                    "stream": stream, "final_obs": number + 1_000_000 if ends and final else None}  # fmt: skip
            buffer.add(**step)
            twin.add(**step)
    return twin


def assert_row_equals(batch, row: int, window) -> None:
    """Assert that one row of a batch shows exactly what the naive window says."""

    def check(got, wanted, name):
        if isinstance(wanted[0], dict):
            assert got.keys() == wanted[0].keys()
            for key in got:
                check(got[key], [value[key] for value in wanted], f"{name}/{key}")
        else:
            np.testing.assert_array_equal(got[row], np.array(wanted), err_msg=name)

    check(batch.obs, window.obs, "obs")
    check(batch.action, window.action, "action")
    for name, values in window.extras.items():
        check(batch.extras[name], values, name)
    for name in ("reward", "terminated", "truncated", "is_first", "obs_mask"):
        check(getattr(batch, name), getattr(window, name), name)
    assert batch.mask[row].all()
    assert batch.weight[row] == 1.0


def interrupted(call, at_line: int, inner: tuple[str, ...], spared: tuple[str, ...]) -> bool:
    """Run `call` and raise KeyboardInterrupt before the given line of some files; return whether it came.

    Args:
        call: what is interrupted.
        at_line: counts the lines run in the files whose names end with one of `inner`, from 1.
        inner: as said.
        spared: functions of these files whose lines do not count and are not interrupted.
    """
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if not frame.f_code.co_filename.endswith(inner) or frame.f_code.co_name in spared:
            return None
        if event == "line":
            seen += 1
            if seen == at_line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def kept_locks(buffer: rv.ReplayBuffer) -> list[str]:
    """Return which locks another thread could not have now. None is waited for, since a busy machine may stop anyone."""
    file, kept = buffer.engine.file, []
    locks = {"buffer": buffer.engine.lock} | ({} if file is None else {"connection": file.db._working})

    def take() -> None:
        for name, lock in locks.items():
            if lock.acquire(blocking=False):
                lock.release()
            else:
                kept.append(name)

    other = threading.Thread(target=take)
    other.start()
    other.join()
    return kept
