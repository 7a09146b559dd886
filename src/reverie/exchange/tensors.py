"""What PyTorch's files of one episode each share: dicts of tensors, written by `torch.save`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from reverie.errors import BadSetting, FileError, need
from reverie.spec import Field
from reverie.values import Tree


def load_tensors(path: Path, *, beside: str | None = None) -> dict[str, Any]:
    """Return the tensors of a file as arrays. No object is made of it that is no tensor or plain value.

    Args:
        path: the file.
        beside: the name of a dict of plain values that lies beside the tensors; where it is missing, it is empty.

    Raises:
        FileError: the file is damaged, or has something else in it.
    """
    need("torch")
    import torch

    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        found = {str(name): tensor.numpy() for name, tensor in values.items() if name != beside}
        return found if beside is None else found | {beside: dict(values.get(beside) or {})}
    except Exception as error:  # torch raises many kinds for what is no file of its own
        raise FileError(
            f"{path}: wanted a dict of tensors, got none ({type(error).__name__}); it is damaged"
        ) from error


def numbered(folder: Path, listed: Callable[[], Iterable[Path]]) -> list[Path]:
    """Return those of some files that are named `<number>.pt`, by number.

    Args:
        folder: where they are, for the error. listed: yields the files.

    Raises:
        FileError: the folder cannot be read.
    """
    try:
        found = [path for path in listed() if re.fullmatch(r"\d+\.pt", path.name)]
    except OSError as error:
        raise FileError(f"{folder}: wanted a folder, got none ({error.strerror}); check the path") from error
    return sorted(found, key=lambda path: int(path.stem))


def check_integer_actions(action: Tree, format: str) -> None:
    """Raise BadSetting unless actions are one integer that a tensor of int64 holds.

    Args:
        action: what the spec says of actions. format: the name of the format, for the error.
    """
    if (
        not isinstance(action, Field)
        or action.shape
        or action.dtype.kind not in "iu"
        or action.dtype == np.uint64
    ):
        raise BadSetting(
            f"{format}: wanted actions that are one integer, got {action!r}; choose another format"
        )
