"""The tokenizer of IRIS: frames become small grids of discrete tokens, and tokens become frames again.

It is an autoencoder with a codebook, after Micheli, Alonso, Fleuret, "Transformers are
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
from reverie.iris.models.autoencoder import build_decoder, build_encoder
from reverie.iris.models.device import in_precision
from reverie.iris.models.patches import cut, distinct, side_by_side

DARKEST = 1e-3  # black and white of a background are this and one less this, whose logits are finite
# Of a background's logits. A smaller correction changes at most 13 of 255, too little to see; without this limit such
# corrections are everywhere.
FAINT_CORRECTION = 0.2
SAME = 1e-3  # of the standard deviation: outputs whose numbers all differ by less are one
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
        self.encoder = build_encoder(config)
        self.pre_quant = nn.Conv2d(config.token_dim, config.token_dim, 1)
        self.embedding = nn.Embedding(config.codebook_size, config.token_dim)
        self.post_quant = nn.Conv2d(config.token_dim, config.token_dim, 1)
        self.decoder = build_decoder(config)
        bound = 1 / config.codebook_size
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        averaged = config.codebook == "average"
        self.embedding.weight.requires_grad_(not averaged)
        self.usage: Tensor | None  # (V,) float32, how many outputs chose each code, a moving average
        self.register_buffer("usage", torch.ones(config.codebook_size) if averaged else None)
        self.background: Tensor | None  # (C, H, W) float32 in 0..1, what patches are told apart from
        self.register_buffer("background", torch.zeros(config.frame) if config.background else None)

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
        z = self.embed(frames.reshape(-1, *want), self.background)  # (B, D, h, w)
        tokens = self.nearest(z)  # (B, K)
        z_q = self.look_up(tokens)
        return Encoded(z.view(*lead, *z.shape[1:]), z_q.view(*lead, *z.shape[1:]), tokens.view(*lead, -1))

    def embed(self, frames: Tensor, background: Tensor | None) -> Tensor:
        """Return the encoder's output for frames or patches (B, C, H, W) before a background: (B, D, h, w) float32."""
        seen = 2 * frames - 1 if background is None else 2 * (frames - background)
        with in_precision(self.config.precision, frames.device):
            z: Tensor = self.pre_quant(self.encoder(seen)).float()
        return z

    def decode(self, z_q: Tensor) -> Tensor:
        """Return frames (…, C, H, W) of codebook vectors (…, D, h, w).

        Their nominal range is 0..1; nothing clamps them, so that training sees how far they miss.
        """
        return self.shown(self.paint(z_q, self.background, faintest=FAINT_CORRECTION))

    @torch.no_grad()
    def encode_decode(self, frames: Tensor) -> Tensor:
        """Return frames (…, C, H, W) as they come back from their tokens, clamped to 0..1."""
        return self.decode(self.encode(frames).z_q).clamp(0, 1)

    @torch.no_grad()
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Return the frames (…, C, H, W), clamped to 0..1, of tokens (…, K) int64."""
        return self.decode(self.look_up(tokens)).clamp(0, 1)

    @torch.no_grad()
    def patches(self) -> Tensor:
        """Return the patch that each code shows, (V, numbers in a patch) in 0..1; wants `lean` and `local`."""
        height, width = self.config.patch_shape
        codes = torch.arange(self.config.codebook_size, device=self.embedding.weight.device)
        everywhere = codes.unsqueeze(1).expand(-1, self.config.tokens_per_frame)
        return self.decode_tokens(everywhere)[:, :, :height, :width].flatten(1)

    def look_up(self, tokens: Tensor) -> Tensor:
        """Return the codebook vectors (…, D, h, w) of tokens (…, K) int64."""
        z_q: Tensor = self.embedding(tokens).transpose(-1, -2)  # (…, D, K)
        return z_q.reshape(*z_q.shape[:-1], *self.config.grid)

    @torch.no_grad()
    def revive(self, dead: Tensor, z: Tensor, *, beyond: float = 0.0) -> None:
        """Move the codes flagged in `dead` (V,) bool onto encoder outputs in `z` (B, D, h, w) that lack one.

        An output is drawn the likelier the farther it lies from every code, so a common output does not get
        many codes, between which tokens would flicker.

        Args:
            dead: the codes that are free.
            z: what the encoder put out.
            beyond: how far from every code an output has to lie: its squared distance, as a share of the variance
                of the distinct outputs. Equal outputs then count once. 0 takes any output that is no code, as
                often as it is there.
        """
        outputs = z.movedim(1, -1).reshape(-1, z.shape[1])
        started = REVIVED_SHARE * len(outputs) / len(self.embedding.weight)
        least = torch.zeros((), device=z.device)  # of the squared distance, to be worth a code
        if beyond:
            # Rounded, for equal patches may come out with other last bits.
            unit = SAME * outputs.std(correction=0).clamp(min=SAME)
            outputs = unit * torch.unique((outputs / unit).round(), dim=0)
            least = beyond * outputs.var(0, correction=0).sum()
        far = torch.ones(len(outputs), device=z.device)  # output -> squared distance from the nearest code
        if not dead.all():
            far = _beyond(least, _squared_distance(outputs, self.embedding.weight[~dead]).amin(1))
        places = dead.nonzero().flatten()
        while len(places) and far.any():
            # Twice as many each time: codes placed together cannot see that they are alike.
            count = min(
                max(1, len(self.embedding.weight) - len(places)), len(places), int(far.count_nonzero())
            )
            drawn = outputs[far.multinomial(count)]
            self.embedding.weight[places[:count]] = drawn
            if self.usage is not None:
                self.usage[places[:count]] = started
            places = places[count:]
            far = _beyond(least, torch.minimum(far, _squared_distance(outputs, drawn).amin(1)))

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

    def paint(self, z_q: Tensor, background: Tensor | None, *, faintest: float = 0.0) -> Tensor:
        """Return the decoder's output for codebook vectors: logits of frames if they are bounded.

        Args:
            z_q: (…, D, h, w).
            background: (…, C, H, W) in 0..1, what the decoder corrects; None where it paints the whole.
            faintest: corrections of a logit below this are left out.
        """
        lead = z_q.shape[:-3]
        output = self._decoded(z_q.reshape(-1, *z_q.shape[-3:]))
        if background is not None:
            # What looks like the background is shown as the background, exactly: its corrections are none.
            height, width = self.config.patch_shape
            empty = z_q.new_zeros(1, self.config.frame[0], height, width)
            nothing = self._decoded(self.embedding(self.nearest(self.embed(empty, empty))).mT.unsqueeze(2))
            places = output.shape[2] // height, output.shape[3] // width
            correction = output - nothing.repeat(1, 1, *places)
            if faintest:  # otherwise it would still swallow the gradient of a correction that is none
                correction = F.hardshrink(correction, faintest)
            output = background.logit(DARKEST) + correction
        return output.view(*lead, *output.shape[1:])

    def _decoded(self, z_q: Tensor) -> Tensor:
        with in_precision(self.config.precision, z_q.device):
            output: Tensor = self.decoder(self.post_quant(z_q)).float()
        return output

    def shown(self, output: Tensor) -> Tensor:
        return output.sigmoid() if self.config.bounded else (output + 1) / 2

    def nearest(self, z: Tensor) -> Tensor:
        """Return the numbers (B, K) int64 of the codes nearest to encoder outputs (B, D, h, w)."""
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
    if settings.pixel_weight and mean_frame is None:
        raise BadSetting("mean_frame: wanted a frame for pixel_weight, got None; pass the data's mean frame")
    config = tokenizer.config
    if config.lean and config.local and config.bounded and settings.reconstruction == "cross_entropy":
        return _losses_of_patches(tokenizer, frames, settings, mean_frame)
    encoded = tokenizer.encode(frames)
    z, z_q = encoded.z, encoded.z_q
    # Straight through: the decoder sees the codebook vectors, the encoder gets their gradient.
    painted = tokenizer.paint(z + (z_q - z).detach(), tokenizer.background)
    weight = torch.ones_like(frames[:, :1])
    if mean_frame is not None:
        weight = _pixel_weight(frames, mean_frame, settings.pixel_weight)
    reconstruction = _reconstruction(tokenizer, frames, painted, weight, settings, perceptual)
    # Codes that are averages take no gradient; their distance is reported and moves nothing.
    codebook = F.mse_loss(z_q, z.detach())
    commitment = settings.commitment_weight * F.mse_loss(z, z_q.detach())
    total = settings.reconstruction_weight * reconstruction + codebook + commitment
    return TokenizerLosses(total, reconstruction, codebook, commitment), encoded


def _reconstruction(
    tokenizer: Tokenizer,
    frames: Tensor,
    painted: Tensor,
    weight: Tensor,
    settings: TokenizerLoss,
    perceptual: Perceptual | None,
) -> Tensor:
    """Return the loss of what was painted beside frames (B, C, H, W), each pixel with its weight (B, 1, H, W)."""
    if settings.reconstruction == "cross_entropy":
        if not tokenizer.config.bounded:
            raise BadSetting(
                "reconstruction: wanted a tokenizer with bounded output for 'cross_entropy', got one without; "
                "set bounded"
            )
        # Of the logits: a pixel that was always alike is certain beyond what a rounded 0 or 1 can tell. It would
        # have no gradient, or one without measure, when it changes at last.
        return F.binary_cross_entropy_with_logits(painted, frames, weight)
    x, y = 2 * frames - 1, 2 * tokenizer.shown(painted) - 1
    error = (x - y).abs()
    if settings.reconstruction == "perceptual":
        if perceptual is None:
            raise BadSetting(
                "perceptual: wanted a distance between frames, got None; "
                "pass a callable, or choose reconstruction='weight_free'"
            )
        return (weight * error).mean() + perceptual(x, y).mean()
    error = error / 2  # Δ-IRIS measures errors in 0..1
    squared = weight * error.square()
    worst = squared.flatten(1).amax(1).mean()
    return 0.1 * (weight * error).mean() + squared.mean() + 0.01 * worst


def _pixel_weight(frames: Tensor, mean_frame: Tensor, pixel_weight: float) -> Tensor:
    return 1 + pixel_weight * 2 * (frames - mean_frame).abs().amax(1, keepdim=True)  # (B, 1, H, W)


def _losses_of_patches(
    tokenizer: Tokenizer, frames: Tensor, settings: TokenizerLoss, mean_frame: Tensor | None
) -> tuple[TokenizerLosses, Encoded]:
    """Return what `tokenizer_losses` does for cross entropy, from each distinct patch of the batch once.

    Most patches of a game look as they always do. A tokenizer that sees every patch by itself makes the same of
    equal ones, so one stands for all.
    """
    config = tokenizer.config
    patches = cut(frames, config.patch_shape)  # (B, K, C·h·w)
    found = distinct(patches)

    def there(frame: Tensor) -> Tensor:
        at_place = cut(frame.unsqueeze(0), config.patch_shape)[0][found.place]
        return side_by_side(at_place, config.frame[0], config.patch_shape)

    kinds = patches.flatten(0, 1)[found.first]  # (U, C·h·w)
    x = side_by_side(kinds, config.frame[0], config.patch_shape)  # (1, C, h, U·w)
    background = None if tokenizer.background is None else there(tokenizer.background)
    z = tokenizer.embed(x, background)  # (1, D, 1, U)
    tokens = tokenizer.nearest(z)
    z_q = tokenizer.embedding(tokens).mT.unsqueeze(2)
    painted = tokenizer.paint(z + (z_q - z).detach(), background)
    # How many each kind stands for, (U,), scaled to a mean of 1: means over kinds are then means over patches.
    share = found.counts * (len(found.counts) / len(found.inverse))
    weight = share.repeat_interleave(config.patch_shape[1]).expand_as(x[:, :1])
    if mean_frame is not None:
        weight = weight * _pixel_weight(x, there(mean_frame), settings.pixel_weight)
    reconstruction = F.binary_cross_entropy_with_logits(painted, x, weight)
    codebook = (share * (z_q - z.detach()).square()).mean()
    commitment = settings.commitment_weight * (share * (z - z_q.detach()).square()).mean()
    total = settings.reconstruction_weight * reconstruction + codebook + commitment
    grid = (len(frames), *config.grid, -1)
    every = [vectors[0, :, 0].T[found.inverse].view(grid).movedim(-1, 1) for vectors in (z, z_q)]
    encoded = Encoded(every[0], every[1], tokens[0][found.inverse].view(len(frames), -1))
    return TokenizerLosses(total, reconstruction, codebook, commitment), encoded


def _beyond(least: Tensor, far: Tensor) -> Tensor:
    """Return the distances with zeros for those that are not above `least`."""
    return far * (far > least)


def _squared_distance(rows: Tensor, others: Tensor) -> Tensor:
    # The usual shortcut by a matrix product leaves rounding errors where equal rows should have distance 0.
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").square()
