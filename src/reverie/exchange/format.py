"""What a format is: the interface that the formats of this room, and those of users, have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from reverie.episode import Episode
from reverie.spec import StepSpec


@dataclass
class Incoming:
    """A foreign data set that is open for reading.

    Attributes:
        spec: what its steps look like. Its names are ours: letters, digits and underscores.
        episodes: yields its episodes in their order, each once. A long one may come in pieces: all but the last
            piece of it have `running=True`. They share nothing with each other or with the file.
        total_steps: how many there are, if that is known before they are read.
        names: the flat name of each column whose name there is another -> that name.
        about: JSON values by name that belong to the data set as a whole, such as frames a second.
        lost: what our steps cannot hold of it, one line each. It is complete when the episodes are read.
        close: closes what is open.
    """

    spec: StepSpec
    episodes: Iterator[Episode]
    total_steps: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None


@dataclass
class Outgoing:
    """What is to be written in a foreign format.

    Attributes:
        spec: what the steps look like.
        episodes: yields whole episodes, oldest first, each once.
        total_episodes, total_steps: how many of them there are.
        names, about: as the data came in, if it came through this room; see `Incoming`.
    """

    spec: StepSpec
    episodes: Iterator[Episode]
    total_episodes: int
    total_steps: int
    names: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


class Format(Protocol):
    """A file format of another library.

    Attributes:
        name: by which users name it, such as "minari".
        reads, writes: whether it can.
    """

    name: str
    reads: bool
    writes: bool

    def recognises(self, source: Any) -> bool:
        """Whether `source`, a path or an object, looks like a data set of this format. It never raises."""

    def open(self, source: Any, **options: Any) -> Incoming:
        """Open a data set for reading.

        Raises:
            FileError: it is damaged, or none of this format; the message names the file and the remedy.
            BadSetting: an option that it has not; or reading would change values and `lossy=` does not name how.
            ModuleNotFoundError: a package is missing that it needs.
        """

    def save(self, target: Any, outgoing: Outgoing, **options: Any) -> list[str]:
        """Write a data set, whole or not at all; return what the format could not hold, one line each.

        Raises:
            FileTaken: something is there. FileError: it cannot be written.
            BadSetting: an option that it has not; or the format would change values and `lossy=` does not name how.
            ModuleNotFoundError: a package is missing that it needs.
        """
