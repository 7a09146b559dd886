"""Every number of a run."""

from reverie.iris.config.parts import (
    NORM_GROUPS,
    ActorCriticConfig,
    ActorCriticLoss,
    Optimisation,
    TokenizerConfig,
    TokenizerLoss,
    WorldModelConfig,
)
from reverie.iris.config.run import (
    Collection,
    Config,
    Evaluation,
    Sampling,
    check_unchanged,
    config_from_json,
    config_to_json,
    presets,
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
    "Sampling",
    "TokenizerConfig",
    "TokenizerLoss",
    "WorldModelConfig",
    "check_unchanged",
    "config_from_json",
    "config_to_json",
    "presets",
    "prolonged",
]
