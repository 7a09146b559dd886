"""The numbers of the three models: their shapes, their losses, and how their weights are moved.

The defaults are IRIS as published (Micheli, Alonso, Fleuret, "Transformers are Sample-Efficient World Models",
ICLR 2023). One thing differs: the tokenizer's loss is that of its successor, Δ-IRIS. What a smaller machine or a
smaller game needs is a setting here too, and off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reverie import BadSetting

NORM_GROUPS = 32  # GroupNorm's groups; channels come in multiples of it
Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16")


def at_least(least: float, **settings: float) -> None:
    """Refuse every setting below `least`, by its name."""
    for name, value in settings.items():
        if not value >= least:  # so that NaN is refused too
            raise BadSetting(f"{name}: wanted at least {least}, got {value}; raise it")


def one_of(known: tuple[str, ...], **settings: str) -> None:
    """Refuse every setting that is not among the known words, by its name."""
    for name, value in settings.items():
        if value not in known:
            raise BadSetting(f"{name}: wanted one of {known}, got {value!r}; choose one")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """The shape of the tokenizer.

    Attributes:
        frame: (channels, height, width) of a frame; height and width are equal.
        patch: fold squares of `patch` × `patch` pixels into channels before the first convolution. 1 as
            published; more makes a small tokenizer much cheaper, for convolutions then run on a smaller grid.
        patch_width: how wide patches are that are no squares, for `lean` tokenizers; `patch` is their height.
            None makes squares.
        local: let the encoder see every patch by itself: convolutions of side 1 everywhere, and in the encoder
            no norms and no attention. Equal patches then get equal tokens, which are easy to predict. Off as
            published.
        lean: much smaller networks around one grid: after the patches two steps that add one convolution
            each, of sides 3 and 1, without norms or attention, and as many in the decoder. Off as published.
            With `local` all sides are 1, and training computes each distinct patch of a batch once.
        channels: feature maps at every level, a multiple of 32.
        levels: resolutions that the convolutions visit; each level halves the one before.
        res_blocks: residual blocks a level in the encoder; the decoder has one more.
        attention_at: sides of the levels that attend after each residual block.
        codebook_size: V, how many tokens there are.
        token_dim: the length of a codebook vector.
        codebook: "gradient" moves the codes by their own loss, as published; "average" makes each the moving
            average of the encoder outputs that chose it.
        average_decay: how much of that average stays after an update.
        bounded: a sigmoid keeps decoded frames in 0..1; as published, nothing does.
        background: read and paint what differs from a background, the median of some frames before the first
            update; patches without anything new are painted exactly. Wants `lean`, `local` and `bounded`. Off
            as published.
        precision: the precision of the convolutions, in training and in use alike, so that a frame has the same
            tokens in every phase. Codes are compared in float32 in any case.
    """

    frame: tuple[int, int, int] = (3, 64, 64)
    patch: int = 1
    patch_width: int | None = None
    local: bool = False
    lean: bool = False
    channels: int = 64
    levels: int = 5
    res_blocks: int = 2
    attention_at: tuple[int, ...] = (8, 16)
    codebook_size: int = 512
    token_dim: int = 512
    codebook: Literal["gradient", "average"] = "gradient"
    average_decay: float = 0.98
    bounded: bool = False
    background: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        one_of(PRECISIONS, precision=self.precision)
        one_of(("gradient", "average"), codebook=self.codebook)
        at_least(
            1, patch=self.patch, levels=self.levels, res_blocks=self.res_blocks, token_dim=self.token_dim
        )
        at_least(2, codebook_size=self.codebook_size)
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
        if self.lean and (self.levels > 1 or self.attention_at):
            raise BadSetting(
                f"lean: wanted one level and no attention, got levels = {self.levels} and "
                f"attention_at = {self.attention_at}; lean networks have neither"
            )
        if self.patch_width is not None and not (self.lean and self.frame[2] % max(1, self.patch_width) == 0):
            raise BadSetting(
                f"patch_width: wanted a divisor of the width {self.frame[2]} and lean on, got {self.patch_width} and "
                f"lean = {self.lean}; only lean tokenizers have patches that are no squares"
            )
        if self.background and not (self.lean and self.local and self.bounded):
            raise BadSetting(
                f"background: wanted lean, local and bounded on, got {self.lean}, {self.local} and {self.bounded}; "
                f"only a patch that is painted by itself can look like its background"
            )
        divisor = self.patch * 2 ** (self.levels - 1)
        if self.frame[1] != self.frame[2] or self.frame[1] % divisor:
            raise BadSetting(
                f"frame: wanted equal sides divisible by patch · 2^(levels − 1) = {divisor}, got {self.frame}; "
                f"resize the frames, or choose fewer levels"
            )

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.patch, self.patch_width or self.patch

    @property
    def patch_pixels(self) -> int:
        """How many numbers a patch of a `lean` tokenizer has."""
        height, width = self.patch_shape
        return self.frame[0] * height * width

    @property
    def grid(self) -> tuple[int, int]:
        """How many tokens a frame has from top to bottom, and from left to right."""
        height, width = self.patch_shape
        return self.frame[1] // height >> (self.levels - 1), self.frame[2] // width >> (self.levels - 1)

    @property
    def tokens_per_frame(self) -> int:
        """K, how many tokens stand for a frame."""
        return self.grid[0] * self.grid[1]


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
        skip_first: leave the first frame of a window out of the loss, of which only the first token foretells
            the others; as published, it counts. It is the larger part of the loss where windows are short.
        looks: know tokens by the patches that they show, in what is read and in what is foretold; as published, each
            token has a vector of its own, and the model has to learn it anew when a patch gets another token. Wants a
            `lean` and `local` tokenizer without `background`, in which a token shows the same everywhere.
        precision: the precision of the layers and of the cache; logits and losses are float32 in any case.
    """

    blocks: int = 20
    layers: int = 10
    heads: int = 4
    width: int = 256
    dropout: float = 0.1
    positions: Literal["absolute", "factored"] = "absolute"
    init_std: float = 0.02
    skip_first: bool = False
    looks: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        one_of(PRECISIONS, precision=self.precision)
        one_of(("absolute", "factored"), positions=self.positions)
        at_least(1, blocks=self.blocks, layers=self.layers, heads=self.heads, width=self.width)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticConfig:
    """The shape of the actor-critic.

    Attributes:
        channels: feature maps after each convolution of side 3.
        strides: how much each convolution's output shrinks, as many numbers as there are channels.
        pooled: shrink by taking maxima, as published; without, the convolutions themselves step.
        recurrent: remember what came before in an LSTM, as published; without, a layer of the same width
            sees the present frame alone.
        width: the length of the LSTM's state, or of that layer.
        careful_heads: begin with a nearly uniform policy and values of zero; as published, both heads begin
            as PyTorch makes them.
    """

    channels: tuple[int, ...] = (32, 32, 64, 64)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    pooled: bool = True
    recurrent: bool = True
    width: int = 512
    careful_heads: bool = False

    def __post_init__(self) -> None:
        at_least(1, width=self.width, channels=min(self.channels, default=1))
        at_least(1, strides=min(self.strides, default=1))
        if len(self.channels) != len(self.strides):
            raise BadSetting(
                f"strides: wanted one for each of the {len(self.channels)} channels, got {self.strides}; "
                f"use 1 where nothing shrinks"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How a model's weights are moved.

    Attributes:
        steps: updates in an epoch.
        batch_size: frames (tokenizer), windows (world model) or imagined games (actor-critic) in a batch.
        start_after: the number of epochs that pass before this training begins.
        first_steps: updates in the epoch in which it begins; None makes it one like the others.
        learning_rate: the learning rate of Adam.
        first_learning_rate: the rate in the epoch in which it begins; None makes it one like the others.
        final_learning_rate: None keeps the rate constant, as published; a number lowers it there linearly
            over the run.
        warm_up: updates, when this training begins, over which the rate rises linearly from nothing; 0, as
            published, begins with the whole rate.
        weight_decay: the decay of the weights of linear layers alone.
        clip: the largest norm of the gradient.
        epsilon: what Adam adds to the root of its second moment.
    """

    steps: int = 200
    batch_size: int = 64
    start_after: int = 0
    first_steps: int | None = None
    learning_rate: float = 1e-4
    first_learning_rate: float | None = None
    final_learning_rate: float | None = None
    warm_up: int = 0
    weight_decay: float = 0.0
    clip: float = 10.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size)
        at_least(0, weight_decay=self.weight_decay, start_after=self.start_after, steps=self.steps)
        at_least(0, warm_up=self.warm_up)
        at_least(0, first_steps=self.first_steps or 0)
        rates = {
            "learning_rate": self.learning_rate,
            "first_learning_rate": self.first_learning_rate,
            "final_learning_rate": self.final_learning_rate,
            "clip": self.clip,
            "epsilon": self.epsilon,
        }
        for name, value in rates.items():
            if value is not None and not value > 0:
                raise BadSetting(f"{name}: wanted a positive number, got {value}; pass one")

    def rates(self, begin: float = 0.0, end: float = 1.0, *, first: bool = False) -> list[float]:
        """Return the learning rate of every update of an epoch.

        Args:
            begin, end: the shares of the run, in 0..1, that are over before and after this epoch.
            first: whether it is the epoch in which this training begins.
        """
        steps = self.first_steps if first and self.first_steps is not None else self.steps
        if first and self.first_learning_rate is not None:
            rates = steps * [self.first_learning_rate]
        else:
            final = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
            fall = final - self.learning_rate
            rates = [
                self.learning_rate + fall * (begin + (end - begin) * step / steps) for step in range(steps)
            ]
        if first or not begin:
            for step in range(min(steps, self.warm_up)):
                rates[step] *= (step + 1) / self.warm_up
        return rates


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerLoss:
    """What the tokenizer is trained for.

    Attributes:
        reconstruction: "weight_free" is Δ-IRIS's, 0.1·L1 + L2 + 0.01·(L2 of the worst pixel) of errors in
            0..1, which needs no pretrained network. "perceptual" is IRIS's, L1 of errors in -1..1 plus a
            perceptual distance that the caller supplies. "cross_entropy" takes brightness for a probability;
            it learns the black of a game's background soonest, and wants a tokenizer with `bounded` output.
        reconstruction_weight: weight of that term.
        commitment: weight of the term that draws the encoder towards the codebook; None is the weight that
            was published with the reconstruction: 0.02 with "weight_free", else 1.
        pixel_weight: how much more a pixel counts by its distance from the mean frame; 0 as published.
            Small moving things weigh next to nothing without it.
        revive_every: how many updates pass until codes that went unused are moved onto encoder outputs, the
            first time on the first batch; 0, as published, never does.
        revive_beyond: how far from every code an output has to lie to get one, as a share of the variance of the
            batch's outputs. Codes that are averages lag behind the encoder, so a common output is always a little
            off its code; with 0 it gets more of them in time, between which its tokens change.
    """

    reconstruction: Literal["weight_free", "perceptual", "cross_entropy"] = "weight_free"
    reconstruction_weight: float = 1.0
    commitment: float | None = None
    pixel_weight: float = 0.0
    revive_every: int = 0
    revive_beyond: float = 0.0

    def __post_init__(self) -> None:
        at_least(
            0,
            commitment=self.commitment_weight,
            pixel_weight=self.pixel_weight,
            revive_every=self.revive_every,
            revive_beyond=self.revive_beyond,
            reconstruction_weight=self.reconstruction_weight,
        )
        one_of(("weight_free", "perceptual", "cross_entropy"), reconstruction=self.reconstruction)

    @property
    def commitment_weight(self) -> float:
        """The weight of the commitment, None resolved."""
        if self.commitment is not None:
            return self.commitment
        return 0.02 if self.reconstruction == "weight_free" else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticLoss:
    """What the actor-critic is trained for, and how its games are imagined.

    Attributes:
        horizon: frames in an imagined game, the real one it starts from included. The last frame is only
            valued, so horizon - 1 actions are learned from.
        burn_in: real frames before the start, from which the LSTM's state is rebuilt.
        gamma: what a reward is worth a step later.
        lam: λ, how much of a return comes from rewards further on and not from the next value.
        entropy: weight of the policy's entropy, which is raised.
        value: weight of the critic's squared error.
        reward: "sampled" draws -1, 0 or 1, as published; "expected" takes their mean.
        mask_after_end: leave out of the loss what was imagined after an imagined end; as published, it counts.
        scaled_advantages: divide advantages by their root mean square; as published, they stay as they are.
        passes: how often the actor-critic learns from the same imagined games. From the second pass on, a ratio of
            new to old probability that has left 1 ± `clip_ratio` to its advantage has no gradient (Schulman et al.,
            "Proximal Policy Optimization Algorithms", 2017). Returns and advantages stay those of the first pass.
        clip_ratio: how far probabilities may move in these passes.
    """

    horizon: int = 20
    burn_in: int = 20
    gamma: float = 0.995
    lam: float = 0.95
    entropy: float = 0.001
    value: float = 1.0
    reward: Literal["sampled", "expected"] = "sampled"
    mask_after_end: bool = False
    scaled_advantages: bool = False
    passes: int = 1
    clip_ratio: float = 0.2

    def __post_init__(self) -> None:
        at_least(2, horizon=self.horizon)
        at_least(1, passes=self.passes)
        at_least(
            0, burn_in=self.burn_in, entropy=self.entropy, value=self.value, gamma=self.gamma, lam=self.lam
        )
        for name, share in {"gamma": self.gamma, "lam": self.lam, "clip_ratio": self.clip_ratio}.items():
            if share > 1:
                raise BadSetting(f"{name}: wanted a number in 0..1, got {share}; lower it")
        one_of(("sampled", "expected"), reward=self.reward)
