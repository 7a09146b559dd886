"""The same calls without the C kernel, in the same process."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable

from reverie.index import native

Calls = dict[str, Callable[[], float | None]]


def without(calls: Calls) -> Calls:
    """Return the calls as NumPy alone does them, under other names; none where no kernel is in use."""
    if native is None:
        return {}
    return {f"{name}, NumPy": functools.partial(_by_numpy, call) for name, call in calls.items()}


def _by_numpy(call: Callable[[], float | None]) -> float:
    """Return the seconds that a call takes without the kernel."""
    users = [module for name, module in sys.modules.items() if name.startswith("reverie.") and _uses(module)]
    for module in users:
        module.native = None
    try:
        begin = time.perf_counter()
        own = call()
        return time.perf_counter() - begin if own is None else own
    finally:
        for module in users:
            module.native = native


def _uses(module: object) -> bool:
    return vars(module).get("native") is native
