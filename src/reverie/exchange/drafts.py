"""Data sets that are written beside their place, and get their name when all of it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.errors import FileError, FileTaken


def vacant_draft(path: Path) -> Path:
    """Return where to write what then goes to `path`.

    Raises:
        FileTaken: something is there.
    """
    if path.exists() or path.is_symlink():
        raise FileTaken(
            f"{path}: wanted a path that is free, got one that is taken; choose another, or remove it"
        )
    return path.with_name(f"{path.name}.new-{os.getpid()}")


@contextmanager
def folder_draft(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which then becomes `folder`; of one that was left by an error nothing stays.

    Raises:
        FileTaken: something is there. FileError: it cannot be written.
    """
    draft = vacant_draft(folder)
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(folder)
    except OSError as error:
        raise FileError(f"{folder}: wanted to write a folder, got {error}; choose another place") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
