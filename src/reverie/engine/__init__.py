"""Memory and file of one buffer meet here."""

from reverie.engine.engine import Keeper
from reverie.engine.feedback import checked_extras, checked_priorities, sampler_of
from reverie.engine.gather import Gatherer
from reverie.engine.layout import ROW_LEAVES, SEQUENCE_LEAVES, Layout, Layouts
from reverie.engine.steps import Intake, Step
from reverie.engine.table import ENDED_NAMES, EpisodeTable, describe, list_episodes

__all__ = [
    "ENDED_NAMES",
    "ROW_LEAVES",
    "SEQUENCE_LEAVES",
    "EpisodeTable",
    "Gatherer",
    "Intake",
    "Keeper",
    "Layout",
    "Layouts",
    "Step",
    "checked_extras",
    "checked_priorities",
    "describe",
    "list_episodes",
    "sampler_of",
]
