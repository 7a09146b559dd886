"""What stands in front of an engine: its file and its end, whatever else it offers."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from reverie.engine.engine import Engine
from reverie.process import Bound


class Face(Bound):
    """A buffer that may have a replay file, and that is closed in the end.

    Attributes:
        engine: what does everything; classes of reverie around a buffer use it.
    """

    engine: Engine

    @property
    def path(self) -> Path | None:
        """Where the replay file is, if there is one."""
        return self.engine.path

    def flush(self) -> None:
        """Make everything survive a loss of power, in the file alone: steps, episodes, samplers, random state.

        Raises:
            FileError: the file cannot be written, and is as it was; or a reader keeps its log from being emptied.
        """
        self.engine.flush()

    def save_as(
        self, path: str | os.PathLike[str], *, capacity: int | None = None, streams: int | None = None
    ) -> None:
        """Write a whole copy of the buffer as a replay file, while others go on using the buffer.

        A copy that this buffer saved there before is brought up to date: what has not changed is not written
        again. Where the buffer has no file of its own, or it has gone, others wait.

        Args:
            path: of the copy.
            capacity, streams: of the copy, whose path has to be free then; see `reverie.open`, which does the same to
                a file that is there. None means as the buffer has it.

        Raises:
            BadSetting: a size that cannot be, or fewer streams than have steps.
            FileError: it cannot be written, or something else is there; what was there is as it was.
        """
        self.engine.save_as(Path(path), capacity, streams)

    def close(self) -> None:
        """Flush, and take and give nothing any more. Closing twice is fine.

        Raises:
            FileError: the file cannot be flushed; the buffer is closed all the same.
        """
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
