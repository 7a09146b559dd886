"""Memory and file of one buffer meet here.

`Engine` is what a buffer is: lock, index, stores, samplers and the one writer of its file. It promises that a change
has happened in memory and in the file alike, or in neither: it is decided, written, and only then published.
`Intake` and the functions beside it check what users pass. `Gatherer` and `Layouts` make batches of what was drawn.
"""

from reverie.engine.engine import Engine
from reverie.engine.episodes import checked_rank
from reverie.engine.face import Face
from reverie.engine.gather import Chosen, Gatherer
from reverie.engine.labels import annotate, discard
from reverie.engine.layout import Layout, Layouts, build, build_partial
from reverie.engine.quick import quick_ways
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
    "Chosen",
    "Engine",
    "Face",
    "Fields",
    "Gatherer",
    "Intake",
    "Layout",
    "Layouts",
    "Step",
    "Wanted",
    "annotate",
    "build",
    "build_partial",
    "checked_extras",
    "checked_fields",
    "checked_priorities",
    "checked_rank",
    "checked_stride",
    "describe",
    "discard",
    "field_names",
    "is_read",
    "quick_ways",
    "sampler_of",
    "span_of",
    "wanted",
]
