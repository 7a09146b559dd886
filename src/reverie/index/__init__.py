"""Which steps are live, to which episode each belongs, and which windows they make: integers only.

The index of a buffer counts; it never holds a value of a step, and it knows no file. It promises:

- A step is published by one call, `commit`. Whatever an interrupt leaves of it, `mend` takes back.
- What a change costs follows from the streams that it changes, not from how much the buffer holds.
- The valid anchors of an episode are an interval of its live ids. So every boundary rule counts its windows,
  draws one of a given rank, and says whether a step is an anchor, without going through the steps.
"""

from reverie.index.anchors import Anchors, anchors_of
from reverie.index.arrays import (
    CUT,
    DISCARDED,
    ENDS,
    NEVER,
    NO_EPISODE,
    NO_FINAL,
    RESERVED,
    RUNNING,
    TERMINATED,
    TRUNCATED,
)
from reverie.index.boundaries import BOUNDARIES, Boundary, check_boundary
from reverie.index.choice import Candidates, Choice, choice_of_kept, discarded, kept_steps
from reverie.index.episodes import NO_SEAMS, EpisodeIndex
from reverie.index.kernel import KERNEL, native
from reverie.index.ranks import entry_of, place_at_rank
from reverie.index.restore import (
    EpisodeColumns,
    TableRows,
    check_table_rows,
    most_episodes,
    rebuild,
    replacement,
    table_rows,
)
from reverie.index.runs import RUN, Bools, Eviction, Ints, Runs
from reverie.index.stretch import Part, Stretch, ended_at, reserve_rows, stretches_of, total_at
from reverie.index.table import ENDED, ENDED_NAMES, EpisodeTable, ended_of, list_episodes
from reverie.index.windows import CrossWindows, Drawn, Windows

__all__ = [
    "BOUNDARIES",
    "CUT",
    "DISCARDED",
    "ENDED",
    "ENDED_NAMES",
    "ENDS",
    "KERNEL",
    "NEVER",
    "NO_EPISODE",
    "NO_FINAL",
    "NO_SEAMS",
    "RESERVED",
    "RUN",
    "RUNNING",
    "TERMINATED",
    "TRUNCATED",
    "Anchors",
    "Bools",
    "Boundary",
    "Candidates",
    "Choice",
    "CrossWindows",
    "Drawn",
    "EpisodeColumns",
    "EpisodeIndex",
    "EpisodeTable",
    "Eviction",
    "Ints",
    "Part",
    "Runs",
    "Stretch",
    "TableRows",
    "Windows",
    "anchors_of",
    "check_boundary",
    "check_table_rows",
    "choice_of_kept",
    "discarded",
    "ended_at",
    "ended_of",
    "entry_of",
    "kept_steps",
    "list_episodes",
    "most_episodes",
    "native",
    "place_at_rank",
    "rebuild",
    "replacement",
    "reserve_rows",
    "stretches_of",
    "table_rows",
    "total_at",
]
