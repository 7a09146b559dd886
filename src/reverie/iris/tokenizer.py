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
from reverie.iris.config import TokenizerConfig, TokenizerLoss

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
        z = self.pre_quant(self.encoder(2 * frames.reshape(-1, *want) - 1))  # (B, D, h, w)
        tokens = self._nearest(z)  # (B, K)
        z_q = self.look_up(tokens)
        return Encoded(z.view(*lead, *z.shape[1:]), z_q.view(*lead, *z.shape[1:]), tokens.view(*lead, -1))

    def decode(self, z_q: Tensor) -> Tensor:
        """Return frames (…, C, H, W) of codebook vectors (…, D, h, w).

        Their nominal range is 0..1; nothing clamps them, so that training sees how far they miss.
        """
        lead = z_q.shape[:-3]
        output: Tensor = self.decoder(self.post_quant(z_q.reshape(-1, *z_q.shape[-3:])))
        frames = output.sigmoid() if self.config.bounded else (output + 1) / 2
        return frames.view(*lead, *frames.shape[1:])

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
        """Move the codes flagged in `dead` (V,) bool onto encoder outputs drawn from `z` (B, D, h, w)."""
        outputs = z.movedim(1, -1).reshape(-1, z.shape[1])
        drawn = torch.randint(len(outputs), (int(dead.sum()),), device=z.device)
        self.embedding.weight[dead] = outputs[drawn]

    def _nearest(self, z: Tensor) -> Tensor:
        # In half precision the expanded distance picks wrong codes, so autocast must not touch it.
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
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
    x, y = 2 * frames - 1, 2 * tokenizer.decode(z + (z_q - z).detach()) - 1
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
        reconstruction = F.binary_cross_entropy((y + 1) / 2, frames, weight)
    else:
        squared = weight * error.square()
        worst = squared.flatten(1).amax(1).mean()
        reconstruction = 0.1 * (weight * error).mean() + squared.mean() + 0.01 * worst
    codebook = F.mse_loss(z_q, z.detach())
    commitment = settings.commitment * F.mse_loss(z, z_q.detach())
    total = reconstruction + codebook + commitment
    return TokenizerLosses(total, reconstruction, codebook, commitment), encoded


class _Residual(nn.Module):
    """Adds a correction made of two convolutions."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        channels = config.channels
        self.body = nn.Sequential(
            *_norm_swish(config), _conv(config, channels, channels),
            *_norm_swish(config), _conv(config, channels, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        corrected: Tensor = x + self.body(x)
        return corrected


class _Attention(nn.Module):
    """Adds what each place of the grid reads from all others, with a single head."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        channels = config.channels
        self.norm = _norm(config)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key, value = (layer(y).flatten(2).mT for layer in (self.query, self.key, self.value))
        read = F.scaled_dot_product_attention(query, key, value)  # (B, h·w, C)
        added: Tensor = x + self.project(read.mT.reshape(x.shape))
        return added


class _Down(nn.Module):
    """Halves the grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class _Apart(nn.Module):
    """Makes every place of the grid an image of its own: (B, C, h, w) to (B·h·w, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(-1, x.shape[1], 1, 1)


class _Together(nn.Module):
    """Undoes `_Apart`."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, self.grid, self.grid, x.shape[1]).movedim(-1, 1)


def _encoder(config: TokenizerConfig) -> nn.Sequential:
    channels = config.channels
    layers: list[nn.Module] = [_conv(config, config.frame[0] * config.patch**2, channels)]
    side = config.frame[1] // config.patch
    for level in range(config.levels):
        if level:
            layers.append(_Down(channels))
            side //= 2
        layers += _level(config, side, config.res_blocks)
    layers += [*_middle(config), *_norm_swish(config), _conv(config, channels, config.token_dim)]
    return nn.Sequential(nn.PixelUnshuffle(config.patch), *_alone(config, layers))


def _decoder(config: TokenizerConfig) -> nn.Sequential:
    channels = config.channels
    layers: list[nn.Module] = [_conv(config, config.token_dim, channels), *_middle(config)]
    side = config.grid
    for level in range(config.levels):
        if level:
            layers += [nn.Upsample(scale_factor=2), _conv(config, channels, channels)]
            side *= 2
        layers += _level(config, side, config.res_blocks + 1)
    layers += [*_norm_swish(config), _conv(config, channels, config.frame[0] * config.patch**2)]
    return nn.Sequential(*_alone(config, layers), nn.PixelShuffle(config.patch))


def _alone(config: TokenizerConfig, layers: list[nn.Module]) -> list[nn.Module]:
    return [_Apart(), *layers, _Together(config.grid)] if config.local else layers


def _level(config: TokenizerConfig, side: int, blocks: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(blocks):
        layers.append(_Residual(config))
        if side in config.attention_at:
            layers.append(_Attention(config))
    return layers


def _middle(config: TokenizerConfig) -> list[nn.Module]:
    # A patch alone has nothing to attend to.
    between = [] if config.local else [_Attention(config)]
    return [_Residual(config), *between, _Residual(config)]


def _conv(config: TokenizerConfig, inward: int, outward: int) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 1) if config.local else nn.Conv2d(inward, outward, 3, padding=1)


def _norm(config: TokenizerConfig) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups, config.channels, eps=1e-6)


def _norm_swish(config: TokenizerConfig) -> list[nn.Module]:
    return [_norm(config), nn.SiLU()]
