"""Every number of the IRIS models and of their training, and two sets of them: `paper` and `demo`.

The `paper` preset is IRIS as published (Micheli, Alonso, Fleuret, "Transformers are Sample-Efficient World
Models", ICLR 2023). The `demo` preset trains in minutes on two processor cores; each of its departures is a
setting below, off in `paper`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reverie import BadSetting

NORM_GROUPS = 32  # GroupNorm's groups; channels come in multiples of it


def _at_least(least: float, **settings: float) -> None:
    for name, value in settings.items():
        if not value >= least:  # so that NaN is refused too
            raise BadSetting(f"{name}: wanted at least {least}, got {value}; raise it")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """The shape of the tokenizer.

    Attributes:
        frame: (channels, height, width) of a frame; height and width are equal.
        patch: fold squares of `patch` × `patch` pixels into channels before the first convolution. 1 as
            published; more makes a small tokenizer much cheaper, for convolutions then run on a smaller grid.
        local: let the encoder see every patch by itself: convolutions of side 1 everywhere, and in the encoder
            no norms and no attention. Equal patches then get equal tokens, which are easy to predict. Off as
            published.
        channels: feature maps at every level, a multiple of 32.
        levels: resolutions that the convolutions visit; each level halves the one before.
        res_blocks: residual blocks a level in the encoder; the decoder has one more.
        attention_at: sides of the levels that attend after each residual block.
        codebook_size: V, how many tokens there are.
        token_dim: the length of a codebook vector.
        bounded: a sigmoid keeps decoded frames in 0..1; as published, nothing does.
    """

    frame: tuple[int, int, int] = (3, 64, 64)
    patch: int = 1
    local: bool = False
    channels: int = 64
    levels: int = 5
    res_blocks: int = 2
    attention_at: tuple[int, ...] = (8, 16)
    codebook_size: int = 512
    token_dim: int = 512
    bounded: bool = False

    def __post_init__(self) -> None:
        _at_least(
            1, patch=self.patch, levels=self.levels, res_blocks=self.res_blocks, token_dim=self.token_dim
        )
        _at_least(2, codebook_size=self.codebook_size)
        if self.channels < 1 or self.channels % NORM_GROUPS:
            raise BadSetting(
                f"channels: wanted a multiple of {NORM_GROUPS}, got {self.channels}; "
                f"GroupNorm splits them into {NORM_GROUPS} groups"
            )
        if self.local and (self.levels > 1 or self.attention_at):
            raise BadSetting(
                f"local: wanted one level and no attention, got levels = {self.levels} and "
                f"attention_at = {self.attention_at}; patches that are tokenised alone have no grid"
            )
        divisor = self.patch * 2 ** (self.levels - 1)
        if self.frame[1] != self.frame[2] or self.frame[1] % divisor:
            raise BadSetting(
                f"frame: wanted equal sides divisible by patch · 2^(levels − 1) = {divisor}, got {self.frame}; "
                f"resize the frames, or choose fewer levels"
            )

    @property
    def grid(self) -> int:
        """How many tokens a frame has on each side."""
        return self.frame[1] // self.patch >> (self.levels - 1)

    @property
    def tokens_per_frame(self) -> int:
        """K, how many tokens stand for a frame."""
        return self.grid * self.grid


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldModelConfig:
    """The shape of the transformer.

    Attributes:
        blocks: steps in the longest sequence; a block is a frame's tokens and one action.
        layers: transformer layers.
        heads: attention heads; they share `width` evenly.
        width: the length of a token's vector.
        dropout: probability of zeroing, in 0..1, on embeddings, attention and both residual branches.
        positions: "absolute" learns a vector for every position, as published; "factored" learns one for
            every block and one for every slot of a block and adds them, which needs less data.
        init_std: standard deviation of the initial weights; 0.02 as published, narrow models want more.
    """

    blocks: int = 20
    layers: int = 10
    heads: int = 4
    width: int = 256
    dropout: float = 0.1
    positions: Literal["absolute", "factored"] = "absolute"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        _at_least(1, blocks=self.blocks, layers=self.layers, heads=self.heads, width=self.width)
        if self.width % self.heads:
            raise BadSetting(
                f"width: wanted a multiple of heads = {self.heads}, got {self.width}; the heads share it evenly"
            )
        if not self.init_std > 0:
            raise BadSetting(
                f"init_std: wanted a positive number, got {self.init_std}; pass for example 0.02"
            )
        if not 0 <= self.dropout < 1:
            raise BadSetting(f"dropout: wanted a probability below 1, got {self.dropout}; 0 switches it off")
        if self.positions not in ("absolute", "factored"):
            raise BadSetting(
                f"positions: wanted 'absolute' or 'factored', got {self.positions!r}; choose one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How a model's weights are moved.

    Attributes:
        steps: updates in one call of the training function.
        batch_size: frames (tokenizer) or windows (world model) in a batch.
        learning_rate: of Adam, whose other settings are PyTorch's defaults.
        final_learning_rate: None keeps the rate constant, as published; a number lowers it there linearly.
        weight_decay: on the weights of linear layers alone.
        clip: the largest norm of the gradient.
    """

    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-4
    final_learning_rate: float | None = None
    weight_decay: float = 0.0
    clip: float = 10.0

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, batch_size=self.batch_size)
        _at_least(0, weight_decay=self.weight_decay)
        rates = {"learning_rate": self.learning_rate, "clip": self.clip}
        if self.final_learning_rate is not None:
            rates["final_learning_rate"] = self.final_learning_rate
        for name, value in rates.items():
            if not value > 0:
                raise BadSetting(f"{name}: wanted a positive number, got {value}; pass one")

    def rate(self, step: int) -> float:
        """Return the learning rate of update `step`, in 0..steps-1."""
        final = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
        return self.learning_rate + (final - self.learning_rate) * step / self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerLoss:
    """What the tokenizer is trained for.

    Attributes:
        reconstruction: "weight_free" is 0.1·L1 + L2 + 0.01·(L2 of the worst pixel), the later choice of the
            same authors, which needs no pretrained network. "perceptual" is L1 plus a perceptual distance
            that the caller supplies, as published. "cross_entropy" takes brightness for a probability; it
            learns the black of a game's background soonest, and wants a tokenizer with `bounded` output.
        commitment: weight of the term that draws the encoder towards the codebook.
        pixel_weight: how much more a pixel counts by its distance from the mean frame; 0 as published.
            Small moving things weigh next to nothing without it.
        revive_every: after so many updates, codes that went unused are moved onto encoder outputs, the
            first time on the first batch; 0, as published, never does.
    """

    reconstruction: Literal["weight_free", "perceptual", "cross_entropy"] = "weight_free"
    commitment: float = 1.0
    pixel_weight: float = 0.0
    revive_every: int = 0

    def __post_init__(self) -> None:
        _at_least(
            0, commitment=self.commitment, pixel_weight=self.pixel_weight, revive_every=self.revive_every
        )
        known = ("weight_free", "perceptual", "cross_entropy")
        if self.reconstruction not in known:
            raise BadSetting(
                f"reconstruction: wanted one of {known}, got {self.reconstruction!r}; choose one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The models and their training; the defaults are those of the paper."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokenizer_loss: TokenizerLoss = field(default_factory=TokenizerLoss)
    tokenizer_training: Optimisation = field(default_factory=lambda: Optimisation(batch_size=256))
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    world_model_training: Optimisation = field(default_factory=lambda: Optimisation(weight_decay=0.01))


presets: dict[str, Config] = {
    "paper": Config(),
    "demo": Config(
        tokenizer=TokenizerConfig(
            patch=8,
            local=True,
            channels=96,
            levels=1,
            res_blocks=1,
            attention_at=(),
            codebook_size=512,
            token_dim=32,
            bounded=True,
        ),
        tokenizer_loss=TokenizerLoss(
            reconstruction="cross_entropy", commitment=0.25, pixel_weight=15.0, revive_every=50
        ),
        tokenizer_training=Optimisation(
            steps=1200, batch_size=16, learning_rate=3e-3, final_learning_rate=2e-4, clip=1.0
        ),
        world_model=WorldModelConfig(
            blocks=8, layers=2, heads=4, width=128, dropout=0.0, positions="factored", init_std=0.06
        ),
        # Many small batches: most tokens of a frame repeat the last one, so windows teach much the same.
        world_model_training=Optimisation(
            steps=1300,
            batch_size=2,
            learning_rate=1e-3,
            final_learning_rate=1e-4,
            weight_decay=0.01,
            clip=1.0,
        ),
    ),
}
