"""Tokenizers that see every patch by itself: rectangles, equal patches, backgrounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reverie as rv
from reverie import BadSetting
from reverie.iris.config import Optimisation, TokenizerConfig, TokenizerLoss, presets
from reverie.iris.learning.train import train_tokenizer
from reverie.iris.models.agent import Agent
from reverie.iris.models.patches import Fold, Unfold, cut, distinct, side_by_side
from reverie.iris.models.tokenizer import Tokenizer, tokenizer_losses

SIZES = TokenizerConfig(frame=(3, 8, 8), patch=4, patch_width=2, local=True, lean=True, channels=32, levels=1,
                        attention_at=(), codebook_size=16, token_dim=8, codebook="average", bounded=True,
                        background=True)  # fmt: skip
LOSS = TokenizerLoss(reconstruction="cross_entropy", commitment=0.25, pixel_weight=5.0)


@pytest.fixture
def frames() -> torch.Tensor:
    """Six frames of black, with a grey square that moves."""
    frames = torch.zeros(6, 3, 8, 8)
    for step in range(6):
        frames[step, :, step // 2 : step // 2 + 2, step : step + 2] = 0.6
    return frames


@pytest.fixture
def tokenizer(frames: torch.Tensor) -> Tokenizer:
    """A tokenizer with a background that is not black, and a code for every patch of the frames."""
    tokenizer = Tokenizer(SIZES)
    assert tokenizer.background is not None
    tokenizer.background.copy_(torch.rand(3, 8, 8))
    with torch.no_grad():
        tokenizer.revive(torch.ones(16, dtype=torch.bool), tokenizer.encode(frames).z)
    return tokenizer


def test_patches_are_rectangles_in_rows() -> None:
    """A patch is a rectangle of pixels; patches follow each other row by row, and fold back into the frame."""
    frame = torch.arange(3 * 8 * 8).view(1, 3, 8, 8)
    patches = cut(frame, (4, 2))
    assert patches.shape == (1, 8, 24)
    assert torch.equal(patches[0, 5].view(3, 4, 2), frame[0, :, 4:, 2:4])
    assert torch.equal(side_by_side(patches[0], 3, (4, 2))[0, :, :, 10:12], frame[0, :, 4:, 2:4])
    assert torch.equal(Unfold((4, 2))(Fold((4, 2))(frame)), frame)
    assert torch.equal(Fold((4, 4))(frame), F.pixel_unshuffle(frame, 4))


def test_equal_patches_of_a_place_are_one() -> None:
    """Patches are grouped as their bytes and their place group them."""
    patches = torch.randint(0, 2, (50, 4, 3)).float() / 255
    found = distinct(patches)
    kinds = [(row % 4, patch.numpy().tobytes()) for row, patch in enumerate(patches.flatten(0, 1))]
    assert len(found.counts) == len(set(kinds))
    for number, (first, place, count) in enumerate(zip(found.first, found.place, found.counts, strict=True)):
        alike = [row for row, kind in enumerate(kinds) if kind == kinds[int(first)]]
        assert (int(first), int(place), int(count)) == (alike[0], alike[0] % 4, len(alike))
        assert (found.inverse[alike] == number).all()


def test_losses_from_distinct_patches_are_those_of_whole_frames(
    tokenizer: Tokenizer, frames: torch.Tensor
) -> None:
    """Losses, gradients and tokens are the same as if every patch had been computed."""
    mean_frame = frames.mean(0)
    losses, encoded = tokenizer_losses(tokenizer, frames, LOSS, mean_frame)
    losses.total.backward()
    gradients = [parameter.grad.clone() for parameter in tokenizer.parameters() if parameter.grad is not None]
    tokenizer.zero_grad()

    plain = tokenizer.encode(frames)
    painted = tokenizer.paint(plain.z + (plain.z_q - plain.z).detach(), tokenizer.background)
    weight = 1 + 10 * (frames - mean_frame).abs().amax(1, keepdim=True)
    reconstruction = F.binary_cross_entropy_with_logits(painted, frames, weight)
    codebook = F.mse_loss(plain.z_q, plain.z.detach())
    commitment = 0.25 * F.mse_loss(plain.z, plain.z_q.detach())
    (reconstruction + codebook + commitment).backward()
    wanted = (reconstruction, codebook, commitment)
    for term, value in zip((losses.reconstruction, losses.codebook, losses.commitment), wanted, strict=True):
        assert torch.allclose(term, value, rtol=1e-4)
    assert torch.equal(encoded.tokens, plain.tokens)
    assert torch.allclose(encoded.z, plain.z, atol=1e-6)
    others = [parameter.grad for parameter in tokenizer.parameters() if parameter.grad is not None]
    for one, other in zip(gradients, others, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_what_looks_like_the_background_is_shown_exactly(tokenizer: Tokenizer, frames: torch.Tensor) -> None:
    """Even an untrained tokenizer shows its background to the byte; one new pixel changes one token alone."""
    bytes_ = torch.randint(0, 256, (1, 3, 8, 8))
    assert tokenizer.background is not None
    tokenizer.background.copy_(bytes_[0] / 255)
    shown = tokenizer.encode_decode(bytes_ / 255)
    assert torch.equal((255 * shown).round(), bytes_.float())
    with torch.no_grad():
        tokenizer.revive(torch.ones(16, dtype=torch.bool), tokenizer.encode(frames).z)
    changed = (bytes_ / 255).clone()
    changed[0, :, 1, 3] = 1 - changed[0, :, 1, 3]
    one, other = tokenizer.encode(bytes_ / 255), tokenizer.encode(changed)
    assert (one.tokens == one.tokens[0, 0]).all()
    moved = (one.z != other.z).any(1)[0]
    assert moved.nonzero().tolist() == [[0, 1]]


def test_the_background_is_the_median_before_the_first_update() -> None:
    """Training fixes the background once; a call that goes on leaves it as it is."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((3, 8, 8), "uint8"), rv.Field((), "int64")), 90, seed=0)
    for step in range(90):
        shade = np.full((3, 8, 8), 200 if step % 3 else 10, np.uint8)
        buffer.add(obs=shade, action=0, reward=0.0, terminated=False, truncated=False)
    tokenizer = Tokenizer(SIZES)
    settings = Optimisation(steps=2, batch_size=4)
    optimiser = torch.optim.Adam([p for p in tokenizer.parameters() if p.requires_grad])
    for _ in train_tokenizer(tokenizer, buffer, settings, LOSS, optimiser=optimiser):
        pass
    assert tokenizer.background is not None
    assert torch.equal(tokenizer.background, torch.full((3, 8, 8), 200 / 255))
    tokenizer.background.fill_(0.5)
    for _ in train_tokenizer(tokenizer, buffer, settings, LOSS, optimiser=optimiser):
        pass
    assert (tokenizer.background == 0.5).all()


@pytest.mark.parametrize(
    ("preset", "grid", "axis"), [("minatar-columns", (1, 10), 3), ("minatar-rows", (10, 1), 2)]
)
def test_columns_or_rows_are_tokens(preset: str, grid: tuple[int, int], axis: int) -> None:
    """The preset's frame is ten of them in order; a changed one changes its token, its picture and its slot alone."""
    config = presets[preset]
    assert config.tokenizer.grid == grid
    agent = Agent(config, num_actions=3).eval()
    assert agent.world_model.slots is not None
    assert agent.world_model.slots.num_embeddings == 10 + 1
    frames = torch.rand(2, 3, 10, 10)
    frames[1] = frames[0]
    frames[1].select(axis - 1, 7).copy_(1 - frames[1].select(axis - 1, 7))
    tokenizer = agent.tokenizer
    with torch.no_grad():
        tokenizer.revive(torch.ones(256, dtype=torch.bool), tokenizer.encode(frames).z)
    one, other = tokenizer.encode(frames).tokens
    assert (one != other).nonzero().flatten().tolist() == [7]
    shown = tokenizer.decode_tokens(torch.stack((one, other)))
    across = tuple(each for each in range(3) if each != axis - 1)
    changed = (shown[0] - shown[1]).abs().amax(across) > 1e-6  # equal patches may round differently
    assert changed.nonzero().flatten().tolist() == [7]
    assert torch.allclose(tokenizer.decode_tokens(one.flip(0)), shown[0].flip(axis - 1), atol=1e-6)


def test_the_presets_of_columns_and_rows_differ_in_the_patch_alone() -> None:
    """So that what one of them learns on one game is the other's doing on another."""
    columns, rows = presets["minatar-columns"], presets["minatar-rows"]
    shape = replace(rows.tokenizer, patch=10, patch_width=1)
    assert replace(rows, tokenizer=shape) == columns
    assert rows != columns


def test_rows_and_columns_may_be_halved() -> None:
    """A grid has its numbers from top to bottom and from left to right, whichever is larger."""
    rows = replace(SIZES, patch=2, patch_width=8)
    assert (rows.grid, rows.tokens_per_frame) == ((4, 1), 4)
    assert (SIZES.grid, SIZES.tokens_per_frame) == ((2, 4), 8)
    tokenizer = Tokenizer(replace(SIZES, local=False, background=False))  # sees beyond its patch
    frames = torch.rand(2, 3, 8, 8)
    encoded = tokenizer.encode(frames)
    assert encoded.z.shape == (2, 8, 2, 4)
    assert torch.equal(tokenizer.look_up(encoded.tokens), encoded.z_q)
    assert torch.equal(tokenizer.nearest(encoded.z[:, :, 1:, 2:3])[:, 0], encoded.tokens[:, 4 + 2])
    assert tokenizer.decode(encoded.z_q).shape == frames.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_width": 3}, "a divisor of the width 8"),
        ({"lean": False}, "lean on"),
        ({"patch_width": None, "lean": False}, "wanted lean, local and bounded on"),
        ({"bounded": False}, "wanted lean, local and bounded on"),
        ({"local": False}, "wanted lean, local and bounded on"),
    ],
)
def test_patches_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    """A setting that needs another one says so."""
    with pytest.raises(BadSetting, match=message):
        replace(SIZES, **change)  # type: ignore[arg-type]
