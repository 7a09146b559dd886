"""What all HDF5 files have in common: opening them, their trees, and their attributes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from reverie.errors import FileError, need


def open_hdf5(source: Any) -> Any:
    """Return an HDF5 file that is open for reading.

    Raises:
        FileError: it is none.
    """
    need("h5py")
    import h5py

    try:
        return h5py.File(source, "r")
    except (OSError, TypeError, ValueError) as error:
        raise FileError(f"{source}: wanted an HDF5 file, got none ({error}); check the path") from error


def has_datasets(source: Any, *names: str) -> bool:
    """Whether a path is an HDF5 file in which all these are there. It never raises."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_file():
        return False
    try:
        with open_hdf5(source) as file:
            return all(name in file for name in names)
    except (FileError, ImportError):
        return False


def plain_value(value: Any) -> Any:
    """Return an attribute of HDF5 as a plain value."""
    value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    return value.decode() if isinstance(value, bytes) else value


def is_json(value: Any) -> bool:
    """Whether JSON has this value."""
    with suppress(TypeError, ValueError):
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    return False


def datasets_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all data sets in a group, with their paths."""
    for name, child in group.items():
        if hasattr(child, "dtype"):
            yield f"{prefix}{name}", child
        else:
            yield from datasets_of(child, f"{prefix}{name}/")
