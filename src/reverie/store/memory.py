"""How much memory there is, and blocks of it that are used again once nobody looks at them."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from reverie.errors import TooLarge
from reverie.process import watch

Owner = TypeVar("Owner")

ALIGNMENT = 64  # bytes of a cache line
# Below this nothing is kept: the allocator serves it from warm memory anyway.
RECYCLE_FROM = 256 * 1024
KEPT_BLOCKS = 4  # unused blocks kept for the next batch; two are in use in a double-buffered loop

LARGE = 2**28  # bytes of a call that are worth a look at what is left

_reserved: dict[int, int] = {}  # id of a live reservation -> bytes, in this process


class _Noting:
    """Holds the lock under which reservations are noted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def forked(self, at_rest: bool) -> None:
        self.lock = threading.Lock()  # a thread of the parent's may have held it


_noting = _Noting()
watch(_noting.forked)


def available_bytes() -> int | None:
    """Return the bytes this process could still take now, or None where the system does not tell.

    The smallest of: what the kernel calls available, what the control group's limit leaves, and what `ulimit -v` does.
    """
    told = (_meminfo("MemAvailable:"), _physical_bytes(), _address_space())
    limits = [left for left in told if left is not None]
    for folder in _CGROUPS:
        limit, used = _number(folder["limit"]), _number(folder["used"])
        if limit is not None and used is not None:
            limits.append(max(limit - used + _inactive_file(folder["stat"]), 0))
    return min(limits) if limits else None


def total_bytes() -> int | None:
    """Return the memory this process may ever use, or None where the system does not tell."""
    limits = [_physical_bytes(), *(_number(folder["limit"]) for folder in _CGROUPS)]
    return min((limit for limit in limits if limit is not None), default=None)


_CGROUPS = (
    {
        "limit": "/sys/fs/cgroup/memory.max",
        "used": "/sys/fs/cgroup/memory.current",
        "stat": "/sys/fs/cgroup/memory.stat",
    },
    {
        "limit": "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "used": "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "stat": "/sys/fs/cgroup/memory/memory.stat",
    },
)


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" means no limit


def _address_space() -> int | None:
    """Bytes that this process may still map, if there is a limit."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None
    return max(most - used, 0)


def _inactive_file(path: str) -> int:
    """Page cache that the control group counts as used but would give back."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def _physical_bytes() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reserve(owner: object, nbytes: int, what: str, held: int = 0) -> None:
    """Note that `owner` will come to need `nbytes`, for as long as it lives; `held` of them it has already.

    Pages are committed only when they are first written, so two buffers that each fit alone would both be
    accepted and run out of memory hours later: what all of them were promised has to fit, too.

    Raises:
        TooLarge: less than that is left.
    """
    now, ever = available_bytes(), total_bytes()
    with _noting.lock:
        others = sum(_reserved.values()) - _reserved.get(id(owner), 0)
        if now is not None and nbytes - held > now:
            left, where = now, "available"
        elif ever is not None and nbytes + others > ever:
            left, where = (
                ever - others,
                f"left of {format_bytes(ever)}, the rest being promised to other buffers",
            )
        else:
            if id(owner) not in _reserved:
                weakref.finalize(owner, _reserved.pop, id(owner), None)
            _reserved[id(owner)] = nbytes
            return
    raise TooLarge(
        f"{what}: wanted {format_bytes(nbytes)} of memory, got {format_bytes(left)} {where}; "
        f"lower the capacity or store smaller observations"
    )


def check_room(nbytes: int, what: str) -> None:
    """Refuse what a single call would take of memory, before anything is allocated.

    Raises:
        TooLarge: there is not so much.
    """
    left = available_bytes() if nbytes >= LARGE else None
    if left is not None and nbytes > left:
        raise TooLarge(
            f"{what}: wanted {format_bytes(nbytes)} of memory, got {format_bytes(left)} available; "
            f"ask for less at a time"
        )


def format_bytes(count: float) -> str:
    """Return `count` bytes as people write it: 1.23 GB, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


class Blocks:
    """Memory for batches, handed out again when the last array that looks at it is gone.

    A fresh 16 MB allocation costs thousands of page faults, more than copying the frames into it. Nothing
    is ever handed out while an array, a view of one, or a tensor made from one is alive: each lease is an
    object that every such view keeps alive, and the block returns when it is collected.
    """

    __slots__ = ("_free",)

    def __init__(self) -> None:
        # deque appends and pops are atomic, so a finalizer may run on any thread.
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=KEPT_BLOCKS)

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return `nbytes` of aligned memory with unknown content."""
        if nbytes < RECYCLE_FROM:
            return aligned_empty(nbytes)
        block = None
        for _ in range(len(self._free)):
            try:
                candidate = self._free.popleft()
            except IndexError:  # another thread took it
                break
            if candidate.nbytes == nbytes:
                block = candidate
                break
            self._free.append(candidate)
        if block is None:
            block = aligned_empty(nbytes)
        return leased(block, nbytes, self._free.append, block)


def leased(
    memory: npt.NDArray[np.uint8], nbytes: int, done: Callable[[Owner], object], owner: Owner
) -> npt.NDArray[np.uint8]:
    """Return the first bytes of memory, and call `done` with its owner once no array looks at them any more."""
    lease: Any = (ctypes.c_uint8 * nbytes).from_address(memory.ctypes.data)
    # The finalizer owns the memory meanwhile; without `atexit` off it would keep it at interpreter exit.
    weakref.finalize(lease, done, owner).atexit = False
    return np.frombuffer(lease, np.uint8)


def aligned_empty(nbytes: int) -> npt.NDArray[np.uint8]:
    """Return uninitialised bytes that begin on a cache line."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + nbytes]
