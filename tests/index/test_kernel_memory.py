"""The C kernel, compiled with what watches every access to memory, is given arguments that do not fit each other."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import reverie.index

SOURCE = Path(reverie.index.__file__).with_name("_native.c")
FUZZ = '''
import importlib.machinery, importlib.util, sys
import numpy as np

np.seterr(all="ignore")

def load(path):
    loader = importlib.machinery.ExtensionFileLoader("_native", path)
    spec = importlib.util.spec_from_file_location("_native", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module

native, rng = load(sys.argv[1]), np.random.default_rng(7)
KINDS = (np.int64, np.int32, np.int8, np.bool_, np.uint8, np.float64, np.float32)
EDGES = (0, 1, -1, 2, 3, 7, 8, 2**31, 2**40, 2**60, 2**62 - 1, -(2**63), 2**63 - 1, 10**30)

def number():
    return int(EDGES[rng.integers(len(EDGES))])

def other(value):
    """Return something that may stand where `value` does."""
    kind = rng.integers(6)
    if isinstance(value, np.ndarray) and kind < 4:
        if kind == 0 and value.size:  # another number in it
            changed = value.copy()
            if value.dtype.kind in "iu":
                limits = np.iinfo(value.dtype)
                changed.flat[rng.integers(value.size)] = min(max(number(), limits.min), limits.max)
            return changed
        if kind == 1:  # another length
            shape = list(value.shape)
            shape[rng.integers(len(shape))] = int(rng.integers(0, 12))
            return np.resize(value, shape)
        if kind == 2:  # another kind
            return value.astype(KINDS[rng.integers(len(KINDS))])
        return np.repeat(value, 2, -1)[..., ::2] if rng.random() < 0.5 else np.frombuffer(bytes(33), np.uint8)[1:]
    if isinstance(value, (tuple, list)) and len(value) and kind < 5:
        changed = list(value)
        place = rng.integers(len(changed))
        changed[place] = other(changed[place])
        return type(value)(changed[: rng.integers(len(changed) + 1)] if rng.random() < 0.1 else changed)
    if isinstance(value, dict) and value and kind < 5:
        changed = dict(value)
        name = list(changed)[rng.integers(len(changed))]
        changed[name] = other(changed[name])
        if rng.random() < 0.1:
            del changed[name]
        return changed
    return (None, number(), "x", np.zeros(3), True, ())[rng.integers(6)]

def filling():
    count, length, capacity, streams = (int(n) for n in rng.integers(1, 7, 4))
    capacity += length
    slots, burn_in = capacity * streams, int(rng.integers(0, length + 1))
    flags = [np.ones((count, length + more), np.bool_) for more in (0, 0, 1, 0, 1, 0)]
    beside = [np.zeros(count, kind) for kind in (np.int64, np.int64, np.int64, np.float32)]
    stop = rng.integers(0, 2 * capacity, 4)
    table = [stop - 1, stop, rng.integers(-1, 3, 4), rng.integers(0, 4, 4).astype(np.int8)]
    episode = rng.integers(0, 4, count)
    start = np.maximum(stop[episode] - length - rng.integers(0, 2, count), 0)
    addresses = [rng.integers(0, streams, count), start, start, episode]
    columns = [np.zeros((slots, 3), np.uint8), np.zeros((count, length + 1, 3), np.uint8), np.zeros((3, 3), np.uint8),
               np.zeros(slots, np.float32), np.zeros((count, length), np.float32), None]
    return native.fill, [*flags, *beside, *addresses, *table, length, burn_in, slots, capacity, *columns]

def choosing():
    count, capacity, lanes = (int(n) for n in rng.integers(1, 9, 3))
    room, tail = int(rng.integers(0, 9)), int(rng.integers(0, 20))
    steps, streams, kinds = rng.integers(0, 40, count), rng.integers(0, lanes, count), None
    if rng.random() < 0.5:
        steps, streams, room, kinds = rng.integers(0, capacity, count), None, count, np.zeros(count, np.int8)
    return native.choose, [steps, streams, tail, tail + int(rng.integers(0, capacity + 1)), capacity, int(rng.integers(1, 5)),
                           rng.integers(0, 4, capacity * lanes).astype(np.int32), rng.integers(0, 40, 4),
                           rng.integers(0, 4, 4).astype(np.int8), np.zeros(room, np.int64), np.zeros(room, np.int64), kinds]

def tree():
    nodes, root = int(rng.integers(1, 40)), int(rng.integers(3, 9))
    return [rng.random((nodes, 16)), rng.random((root, 16)), rng.random(root)], np.cumsum(rng.random(root))

def finding():
    levels, sums = tree()
    targets = rng.random(8) * sums[-1] * rng.choice((-1, 1, 2, np.nan, np.inf), 8)
    return native.walk, [targets, np.zeros(8, np.int64), bool(rng.integers(2)), sums, *levels]

def adding():
    levels, sums = tree()
    return native.walk, [None, rng.integers(0, levels[0].size, 8), bool(rng.integers(2)), sums, *levels]

def putting():
    streams, capacity, entries = (int(n) for n in rng.integers(1, 5, 3))
    kind = KINDS[rng.integers(len(KINDS))]
    heads = rng.integers(0, 9, streams)
    arrays = [np.zeros((streams * capacity, 3), np.float32), np.zeros(streams * capacity, kind),
              np.zeros(streams * capacity, np.float32), heads, np.maximum(heads - capacity, 0),
              rng.integers(-1, entries, streams), rng.integers(0, 99, streams),
              np.zeros(streams * capacity, np.int32), np.zeros(entries, np.int64), np.zeros(entries, np.int64),
              np.zeros(entries), capacity, np.ndarray, kind, frozenset({float, np.float32, np.float64}), np.False_]
    if rng.random() < 0.3:
        place = rng.integers(len(arrays))
        arrays[place] = other(arrays[place])
    lanes = bool(rng.integers(2))
    lead, flags = (streams,) if lanes else (), np.zeros(streams, np.bool_) if lanes else False
    rewards = rng.random(streams) if lanes else float(rng.random())
    action = np.ones(lead, kind) if lanes or rng.random() < 0.5 else number()
    step = [native.place(*arrays), np.ones((*lead, 3), np.float32), action, rewards, flags, flags]
    return (native.put_lanes, [*step, None]) if lanes else (native.put, [*step, int(rng.integers(0, streams))])

good = refused = stored = 0
for _ in range(int(sys.argv[2])):
    for make in (filling, choosing, choosing, finding, adding, putting):
        try:
            call, args = make()
            for _ in range(rng.integers(0, 3)):
                place = rng.integers(len(args))
                args[place] = other(args[place])
            stored += call(*args) is True
            good += 1
        except (TypeError, ValueError, IndexError, KeyError, OverflowError, BufferError):
            refused += 1
assert good > refused / 9 and refused > good / 9 and stored > good / 99, (good, refused, stored)
print("fuzzed", good, refused)
'''


@pytest.mark.slow
def test_no_argument_makes_it_leave_its_arrays(tmp_path):
    """Neither reads nor writes outside an array, nor arithmetic that C leaves undefined, in 30,000 calls."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler with its sanitizers, on Linux, such as Debian's gcc; CC names it")
    module = tmp_path / "_native.abi3.so"
    watch = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    plain = [
        "-std=c11",
        "-fPIC",
        "-shared",
        "-ffp-contract=off",
        "-Werror",
        "-Wall",
        "-Wextra",
        "-Wconversion",
    ]
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run([*compiler, *plain, *watch, include, str(SOURCE), "-o", str(module)], check=True)
    asan = subprocess.run(
        [*compiler, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    )
    settings = {"LD_PRELOAD": asan.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(module), "5000"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("fuzzed")
