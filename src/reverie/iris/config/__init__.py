"""Configurations: every number of a run, checked when it is given, and four sets of them by name.

`models` has the shapes, losses and optimisation of the models, `run` has what is around them, and `presets` names
four whole configurations. A configuration is frozen. It is written as JSON and read again without loss; settings
that an older text lacks have their defaults. Nothing here imports a framework.
"""

from reverie.iris.config.models import (
    NORM_GROUPS,
    ActorCriticConfig,
    ActorCriticLoss,
    Optimisation,
    Precision,
    TokenizerConfig,
    TokenizerLoss,
    WorldModelConfig,
)
from reverie.iris.config.presets import preset_named, presets
from reverie.iris.config.run import (
    Collection,
    Config,
    Evaluation,
    Sampling,
    check_unchanged,
    config_from_json,
    config_to_json,
    prolonged,
)

__all__ = [
    "NORM_GROUPS",
    "ActorCriticConfig",
    "ActorCriticLoss",
    "Collection",
    "Config",
    "Evaluation",
    "Optimisation",
    "Precision",
    "Sampling",
    "TokenizerConfig",
    "TokenizerLoss",
    "WorldModelConfig",
    "check_unchanged",
    "config_from_json",
    "config_to_json",
    "preset_named",
    "presets",
    "prolonged",
]
