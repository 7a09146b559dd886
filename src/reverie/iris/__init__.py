"""The reference client: IRIS's tokenizer and world model (Micheli, Alonso, Fleuret, ICLR 2023)."""

from reverie.iris.config import Config, TokenizerConfig, WorldModelConfig, presets
from reverie.iris.imagination import Imagination
from reverie.iris.tokenizer import Tokenizer
from reverie.iris.train import train_tokenizer, train_world_model
from reverie.iris.world_model import WorldModel

__all__ = [
    "Config",
    "Imagination",
    "Tokenizer",
    "TokenizerConfig",
    "WorldModel",
    "WorldModelConfig",
    "presets",
    "train_tokenizer",
    "train_world_model",
]
