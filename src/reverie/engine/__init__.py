"""Memory and file of one buffer meet here.

`Engine` is what a buffer is: lock, index, stores, samplers and the one writer of its file. It promises that a change
has happened in memory and in the file alike, or in neither: it is decided, written, and only then published.
`Intake` and the functions beside it check what users pass. `Gatherer` and `Layouts` make batches of what was drawn.
"""

from reverie.engine.engine import Engine
from reverie.engine.episodes import checked_rank
from reverie.engine.face import Face
from reverie.engine.gate import (
    NOTE,
    adding,
    check_limit,
    drawing,
    give_up,
    limit_rate,
    noted,
    restore_gate,
    waiting_for,
)
from reverie.engine.gather import Chosen, Gatherer
from reverie.engine.labels import annotate, discard
from reverie.engine.layout import Layout, Layouts, build, build_partial
from reverie.engine.quick import quick_ways
from reverie.engine.rate import RateCount, RateLimit
from reverie.engine.selection import (
    Fields,
    Wanted,
    checked_fields,
    checked_stride,
    field_names,
    is_read,
    span_of,
    wanted,
)
from reverie.engine.steps import Intake, Step, checked_extras, checked_priorities, sampler_of
from reverie.engine.words import describe

__all__ = [
    "NOTE",
    "Chosen",
    "Engine",
    "Face",
    "Fields",
    "Gatherer",
    "Intake",
    "Layout",
    "Layouts",
    "RateCount",
    "RateLimit",
    "Step",
    "Wanted",
    "adding",
    "annotate",
    "build",
    "build_partial",
    "check_limit",
    "checked_extras",
    "checked_fields",
    "checked_priorities",
    "checked_rank",
    "checked_stride",
    "describe",
    "discard",
    "drawing",
    "field_names",
    "give_up",
    "is_read",
    "limit_rate",
    "noted",
    "quick_ways",
    "restore_gate",
    "sampler_of",
    "span_of",
    "waiting_for",
    "wanted",
]
