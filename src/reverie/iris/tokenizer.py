"""The tokenizer of IRIS: frames become small grids of discrete tokens, and tokens become frames again.

An autoencoder with a codebook trained by gradient, after Micheli, Alonso, Fleuret, "Transformers are
Sample-Efficient World Models", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import BadSetting
from reverie.iris.config import NORM_GROUPS, TokenizerConfig, TokenizerLoss
from reverie.iris.transformer import in_precision

REVIVED_SHARE = 0.2  # of the uniform share of outputs: what a revived code's average starts with

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Takes frames and reconstructions, (B, C, H, W) in -1..1, and returns a distance for each, (B,)."""


class Encoded(NamedTuple):
    """Frames as tokens. K = h·w tokens a frame, in row-major order.

    Attributes:
        z: (…, D, h, w) float32, what the encoder put out.
        z_q: (…, D, h, w) float32, the codebook vectors nearest to it.
        tokens: (…, K) int64 in 0..V-1, their numbers.
    """

    z: Tensor
    z_q: Tensor
    tokens: Tensor


class TokenizerLosses(NamedTuple):
    """The terms of one batch, scalars; `total` is their sum, the one to differentiate."""

    total: Tensor
    reconstruction: Tensor
    codebook: Tensor
    commitment: Tensor


class Tokenizer(nn.Module):
    """Turns frames into tokens and back.

    Args:
        config: the sizes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.pre_quant = nn.Conv2d(config.token_dim, config.token_dim, 1)
        self.embedding = nn.Embedding(config.codebook_size, config.token_dim)
        self.post_quant = nn.Conv2d(config.token_dim, config.token_dim, 1)
        self.decoder = _decoder(config)
        bound = 1 / config.codebook_size
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        averaged = config.codebook == "average"
        self.embedding.weight.requires_grad_(not averaged)
        self.usage: Tensor | None  # (V,) float32, how many outputs chose each code, a moving average
        self.register_buffer("usage", torch.ones(config.codebook_size) if averaged else None)

    def encode(self, frames: Tensor) -> Encoded:
        """Return the tokens of frames (…, C, H, W), float in 0..1.

        The codebook vectors carry gradient to the codebook, not to the encoder.

        Raises:
            BadSetting: frames of another size or dtype.
        """
        want = self.config.frame
        if frames.shape[-3:] != want or not frames.is_floating_point():
            raise BadSetting(
                f"frames: wanted floats in 0..1 shaped (…, {', '.join(map(str, want))}), "
                f"got {frames.dtype} shaped {tuple(frames.shape)}; convert with frames.float() / 255"
            )
        lead = frames.shape[:-3]
        with in_precision(self.config.precision, frames.device):
            z = self.pre_quant(self.encoder(2 * frames.reshape(-1, *want) - 1)).float()  # (B, D, h, w)
        tokens = self._nearest(z)  # (B, K)
        z_q = self.look_up(tokens)
        return Encoded(z.view(*lead, *z.shape[1:]), z_q.view(*lead, *z.shape[1:]), tokens.view(*lead, -1))

    def decode(self, z_q: Tensor) -> Tensor:
        """Return frames (…, C, H, W) of codebook vectors (…, D, h, w).

        Their nominal range is 0..1; nothing clamps them, so that training sees how far they miss.
        """
        return self.shown(self.paint(z_q))

    @torch.no_grad()
    def encode_decode(self, frames: Tensor) -> Tensor:
        """Return frames (…, C, H, W) as they come back from their tokens, clamped to 0..1."""
        return self.decode(self.encode(frames).z_q).clamp(0, 1)

    @torch.no_grad()
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Return the frames (…, C, H, W), clamped to 0..1, of tokens (…, K) int64."""
        return self.decode(self.look_up(tokens)).clamp(0, 1)

    def look_up(self, tokens: Tensor) -> Tensor:
        """Return the codebook vectors (…, D, h, w) of tokens (…, K) int64."""
        grid = self.config.grid
        z_q: Tensor = self.embedding(tokens).transpose(-1, -2)  # (…, D, K)
        return z_q.reshape(*z_q.shape[:-1], grid, grid)

    @torch.no_grad()
    def revive(self, dead: Tensor, z: Tensor) -> None:
        """Move the codes flagged in `dead` (V,) bool onto encoder outputs in `z` (B, D, h, w) that lack one.

        An output is drawn the likelier the farther it lies from every code, so a common output does not get
        many codes, between which tokens would flicker.
        """
        outputs = z.movedim(1, -1).reshape(-1, z.shape[1])
        far = torch.ones(len(outputs), device=z.device)  # output -> squared distance from the nearest code
        if not dead.all():
            far = _squared_distance(outputs, self.embedding.weight[~dead]).amin(1)
        places = dead.nonzero().flatten()
        while len(places) and far.any():
            # Twice as many each time: codes placed together cannot see that they are alike.
            count = min(
                max(1, len(self.embedding.weight) - len(places)), len(places), int(far.count_nonzero())
            )
            drawn = outputs[far.multinomial(count)]
            self.embedding.weight[places[:count]] = drawn
            if self.usage is not None:
                self.usage[places[:count]] = REVIVED_SHARE * len(outputs) / len(self.usage)
            places = places[count:]
            far = torch.minimum(far, _squared_distance(outputs, drawn).amin(1))

    @torch.no_grad()
    def follow(self, encoded: Encoded) -> None:
        """Move every code towards the mean of the outputs that chose it; only with an "average" codebook."""
        assert self.usage is not None, "codes that are moved by gradient follow nothing"
        outputs = encoded.z.movedim(-3, -1).reshape(-1, self.embedding.embedding_dim)  # (B·K, D)
        chosen = encoded.tokens.flatten()
        count = torch.zeros_like(self.usage).index_add_(0, chosen, torch.ones_like(outputs[:, 0]))
        total = torch.zeros_like(self.embedding.weight).index_add_(0, chosen, outputs)
        decay = self.config.average_decay
        kept = decay * self.usage
        self.usage.copy_(kept + (1 - decay) * count)
        mean = (kept.unsqueeze(1) * self.embedding.weight + (1 - decay) * total) / self.usage.unsqueeze(1)
        self.embedding.weight.copy_(mean)

    def paint(self, z_q: Tensor) -> Tensor:
        """Return what the decoder makes of codebook vectors: logits of frames if they are bounded."""
        lead = z_q.shape[:-3]
        with in_precision(self.config.precision, z_q.device):
            output: Tensor = self.decoder(self.post_quant(z_q.reshape(-1, *z_q.shape[-3:]))).float()
        return output.view(*lead, *output.shape[1:])

    def shown(self, output: Tensor) -> Tensor:
        return output.sigmoid() if self.config.bounded else (output + 1) / 2

    def _nearest(self, z: Tensor) -> Tensor:
        # In half precision the expanded distance picks wrong codes, so autocast must not touch it.
        with torch.no_grad(), in_precision("float32", z.device):
            rows = z.float().movedim(1, -1).reshape(-1, z.shape[1])  # (B·K, D)
            codes = self.embedding.weight.float()
            cross = rows @ codes.T
            distance = rows.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * cross
            return distance.argmin(1).view(len(z), -1)


def tokenizer_losses(
    tokenizer: Tokenizer,
    frames: Tensor,
    settings: TokenizerLoss,
    mean_frame: Tensor | None = None,
    perceptual: Perceptual | None = None,
) -> tuple[TokenizerLosses, Encoded]:
    """Return the losses of a batch of frames, and its tokens.

    Args:
        tokenizer: the model.
        frames: (B, C, H, W) float in 0..1.
        settings: which terms, how heavy.
        mean_frame: (C, H, W) float in 0..1, what `pixel_weight` measures distance from.
        perceptual: the distance that "perceptual" reconstruction adds to L1.

    Raises:
        BadSetting: the settings want a mean frame or a perceptual distance and none was given.
    """
    encoded = tokenizer.encode(frames)
    z, z_q = encoded.z, encoded.z_q
    # Straight through: the decoder sees the codebook vectors, the encoder gets their gradient.
    painted = tokenizer.paint(z + (z_q - z).detach())
    x, y = 2 * frames - 1, 2 * tokenizer.shown(painted) - 1
    weight = 1.0 + torch.zeros_like(x[:, :1])
    if settings.pixel_weight:
        if mean_frame is None:
            raise BadSetting(
                "mean_frame: wanted a frame for pixel_weight, got None; pass the data's mean frame"
            )
        distance = 2 * (frames - mean_frame).abs().amax(1, keepdim=True)  # (B, 1, H, W), in 0..2
        weight = weight + settings.pixel_weight * distance
    error = (x - y).abs()
    if settings.reconstruction == "perceptual":
        if perceptual is None:
            raise BadSetting(
                "perceptual: wanted a distance between frames, got None; "
                "pass a callable, or choose reconstruction='weight_free'"
            )
        reconstruction = (weight * error).mean() + perceptual(x, y).mean()
    elif settings.reconstruction == "cross_entropy":
        if not tokenizer.config.bounded:
            raise BadSetting(
                "reconstruction: wanted a tokenizer with bounded output for 'cross_entropy', got one without; "
                "set bounded"
            )
        # Of the logits: a pixel that was always alike is certain beyond what a rounded 0 or 1 can tell, and gives
        # no gradient, or one without measure, when it changes at last.
        reconstruction = F.binary_cross_entropy_with_logits(painted, frames, weight)
    else:
        error = error / 2  # Δ-IRIS measures errors in 0..1
        squared = weight * error.square()
        worst = squared.flatten(1).amax(1).mean()
        reconstruction = 0.1 * (weight * error).mean() + squared.mean() + 0.01 * worst
    # Codes that are averages take no gradient; their distance is reported and moves nothing.
    codebook = F.mse_loss(z_q, z.detach())
    commitment = settings.commitment_weight * F.mse_loss(z, z_q.detach())
    total = settings.reconstruction_weight * reconstruction + codebook + commitment
    return TokenizerLosses(total, reconstruction, codebook, commitment), encoded


def _squared_distance(rows: Tensor, others: Tensor) -> Tensor:
    # The usual shortcut by a matrix product leaves rounding errors where equal rows should have distance 0.
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").square()


class _Kit(NamedTuple):
    """How one side of the tokenizer builds its layers."""

    channels: int
    kernel: int  # side of the convolutions
    normed: bool
    attention_at: tuple[int, ...] | None  # None: nowhere, not even in the middle

    @classmethod
    def of(cls, config: TokenizerConfig, *, normed: bool) -> _Kit:
        if config.local:
            return cls(config.channels, 1, normed, None)
        return cls(config.channels, 3, normed, config.attention_at)

    def conv(self, inward: int, outward: int) -> nn.Conv2d:
        return nn.Conv2d(inward, outward, self.kernel, padding=self.kernel // 2)

    def norm(self) -> nn.Module:
        return nn.GroupNorm(NORM_GROUPS, self.channels, eps=1e-6) if self.normed else nn.Identity()

    def step(self, outward: int) -> list[nn.Module]:
        return [self.norm(), nn.SiLU(), self.conv(self.channels, outward)]

    def level(self, side: int, blocks: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers.append(_Residual(self))
            if self.attention_at and side in self.attention_at:
                layers.append(_Attention(self))
        return layers

    def middle(self) -> list[nn.Module]:
        between = [] if self.attention_at is None else [_Attention(self)]
        return [_Residual(self), *between, _Residual(self)]


class _Residual(nn.Module):
    """Adds a correction made of two convolutions."""

    def __init__(self, kit: _Kit) -> None:
        super().__init__()
        self.body = nn.Sequential(*kit.step(kit.channels), *kit.step(kit.channels))

    def forward(self, x: Tensor) -> Tensor:
        corrected: Tensor = x + self.body(x)
        return corrected


class _Attention(nn.Module):
    """Adds what each place of the grid reads from all others, with a single head."""

    def __init__(self, kit: _Kit) -> None:
        super().__init__()
        self.norm = kit.norm()
        self.query, self.key, self.value, self.project = (
            nn.Conv2d(kit.channels, kit.channels, 1) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key, value = (layer(y).flatten(2).mT for layer in (self.query, self.key, self.value))
        read = F.scaled_dot_product_attention(query, key, value)  # (B, h·w, C)
        added: Tensor = x + self.project(read.mT.reshape(x.shape))
        return added


class _Step(nn.Module):
    """Adds what one convolution sees."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.conv(x).relu()
        return added


def _lean(inward: int, channels: int, outward: int) -> list[nn.Module]:
    steps = [_Step(channels, 3), _Step(channels, 1)]
    return [nn.Conv2d(inward, channels, 1), nn.ReLU(), *steps, nn.Conv2d(channels, outward, 1)]


def _encoder(config: TokenizerConfig) -> nn.Sequential:
    if config.lean:
        folded = config.frame[0] * config.patch**2
        return nn.Sequential(
            nn.PixelUnshuffle(config.patch), *_lean(folded, config.channels, config.token_dim)
        )
    kit = _Kit.of(config, normed=not config.local)
    side = config.frame[1] // config.patch
    layers = [nn.PixelUnshuffle(config.patch), kit.conv(config.frame[0] * config.patch**2, kit.channels)]
    for level in range(config.levels):
        if level:
            # One more row and column on the right and below, so that the grid halves exactly.
            layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(kit.channels, kit.channels, 3, stride=2)]
            side //= 2
        layers += kit.level(side, config.res_blocks)
    return nn.Sequential(*layers, *kit.middle(), *kit.step(config.token_dim))


def _decoder(config: TokenizerConfig) -> nn.Sequential:
    if config.lean:
        folded = config.frame[0] * config.patch**2
        return nn.Sequential(*_lean(config.token_dim, config.channels, folded), nn.PixelShuffle(config.patch))
    kit = _Kit.of(config, normed=True)
    side = config.grid
    layers = [kit.conv(config.token_dim, kit.channels), *kit.middle()]
    for level in range(config.levels):
        if level:
            layers += [nn.Upsample(scale_factor=2), kit.conv(kit.channels, kit.channels)]
            side *= 2
        layers += kit.level(side, config.res_blocks + 1)
    layers += kit.step(config.frame[0] * config.patch**2)
    return nn.Sequential(*layers, nn.PixelShuffle(config.patch))
