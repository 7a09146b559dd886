"""The C kernel, where it was compiled: twins of functions that NumPy computes elsewhere, to the same bytes."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

TWINS = 4  # goes up with any change of what a function of `_native.c` takes or returns


def load(pure: bool) -> Any:
    """Return the module that was compiled; None if there is none, or `pure` asks for NumPy.

    Raises:
        ImportError: it was compiled from the source of another version.
    """
    try:
        module = None if pure else import_module("reverie.index._native")
    except ModuleNotFoundError:
        return None
    if module is not None and module.TWINS != TWINS:
        raise ImportError(
            f"reverie: wanted a C kernel of version {TWINS}, got {module.TWINS}, compiled from another source; "
            f"install reverie again, or set REVERIE_PURE=1"
        )
    return module


native: Any = load(os.environ.get("REVERIE_PURE") == "1")
KERNEL = "NumPy" if native is None else "C"
"""What computes the inner loops of drawing: "C" where the kernel was compiled, else "NumPy". Batches are the same."""
