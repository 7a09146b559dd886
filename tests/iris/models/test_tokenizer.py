"""The tokenizer: sizes, the quantiser, gradients, losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from reverie import BadSetting
from reverie.iris.config import Optimisation, TokenizerConfig, TokenizerLoss, presets
from reverie.iris.learning.train import new_optimiser
from reverie.iris.models.tokenizer import Tokenizer, tokenizer_losses


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_preset_has_the_published_number_of_parameters() -> None:
    """Encoder, decoder and the whole have exactly as many parameters as the original."""
    tokenizer = Tokenizer(presets["paper"].tokenizer)
    assert count(tokenizer.encoder) == 1_418_240
    assert count(tokenizer.decoder) == 1_821_827
    assert count(tokenizer) == 4_027_523


def test_the_paper_preset_turns_a_frame_into_sixteen_tokens_and_back() -> None:
    """Any leading axes stay; a frame becomes 4×4 tokens, and tokens become a frame of the same size."""
    tokenizer = Tokenizer(presets["paper"].tokenizer).eval()
    frames = torch.rand(1, 2, 3, 64, 64)
    encoded = tokenizer.encode(frames)
    assert encoded.z.shape == encoded.z_q.shape == (1, 2, 512, 4, 4)
    assert encoded.tokens.shape == (1, 2, 16)
    assert tokenizer.encode_decode(frames).shape == frames.shape


def test_a_token_is_the_nearest_code_and_tokens_come_row_by_row(tokenizer: Tokenizer) -> None:
    """Each token names the codebook vector nearest to its place, rows first, as a plain search finds it."""
    encoded = tokenizer.encode(torch.rand(3, 3, 16, 16))
    for image in range(3):
        for row in range(2):
            for column in range(2):
                place = encoded.z[image, :, row, column]
                nearest = (tokenizer.embedding.weight - place).square().sum(1).argmin()
                assert encoded.tokens[image, 2 * row + column] == nearest
                assert torch.equal(encoded.z_q[image, :, row, column], tokenizer.embedding.weight[nearest])


def test_codes_are_chosen_in_single_precision_under_autocast(tokenizer: Tokenizer) -> None:
    """Codes that differ by less than half precision resolves are told apart inside an autocast region."""
    codes = 1 + 1e-4 * torch.randn(32, 16)
    tokenizer.embedding.weight.data = codes
    z = codes[torch.randperm(32)[:8]].view(2, 2, 2, 16).movedim(-1, 1)  # exactly on eight codes
    with torch.autocast("cpu", torch.bfloat16):
        inside = tokenizer.nearest(z)
    assert torch.equal(inside, tokenizer.nearest(z))
    assert len(inside.unique()) > 4


def test_gradient_passes_straight_through_and_trains_the_codebook(tokenizer: Tokenizer) -> None:
    """The decoder's gradient at the codes reaches the encoder; the codebook is moved by its own term alone."""
    frames = torch.rand(4, 3, 16, 16)
    losses, encoded = tokenizer_losses(tokenizer, frames, TokenizerLoss())
    assert encoded.z.requires_grad
    (from_reconstruction,) = torch.autograd.grad(losses.reconstruction, encoded.z, retain_graph=True)
    assert from_reconstruction.abs().sum() > 0
    codebook = tokenizer.embedding.weight
    assert torch.autograd.grad(losses.reconstruction, codebook, retain_graph=True, allow_unused=True) == (
        None,
    )
    (moved,) = torch.autograd.grad(losses.codebook, codebook, retain_graph=True)
    used = torch.zeros(32, dtype=torch.bool)
    used[encoded.tokens.flatten()] = True
    assert torch.equal(moved.abs().sum(1) > 0, used)
    place = torch.autograd.grad(losses.codebook, encoded.z, retain_graph=True, allow_unused=True)
    assert place == (None,)  # the codebook comes to the encoder, not the encoder to the codebook
    (commitment,) = torch.autograd.grad(losses.commitment, encoded.z, retain_graph=True)
    assert torch.allclose(commitment, 0.02 * 2 * (encoded.z - encoded.z_q) / encoded.z.numel())


def test_the_losses_are_the_documented_formulas(tokenizer: Tokenizer) -> None:
    """Every reconstruction loss equals its formula by hand: Δ-IRIS's on errors in 0..1, IRIS's in -1..1."""
    frames = torch.rand(2, 3, 16, 16)
    x, y = 2 * frames - 1, 2 * tokenizer.decode(tokenizer.encode(frames).z_q) - 1
    error = (x - y).abs()

    def term(settings: TokenizerLoss, **more: object) -> torch.Tensor:
        return tokenizer_losses(tokenizer, frames, settings, **more)[0].reconstruction  # type: ignore[arg-type]

    half = error / 2
    worst = torch.stack([image.square().max() for image in half]).mean()
    expected = 0.1 * half.mean() + half.square().mean() + 0.01 * worst
    assert torch.allclose(term(TokenizerLoss()), expected, atol=1e-6)
    perceptual = TokenizerLoss(reconstruction="perceptual")
    distance = torch.tensor([1.0, 3.0])
    assert torch.allclose(term(perceptual, perceptual=lambda x, y: distance), error.mean() + 2, atol=1e-6)
    mean_frame = torch.zeros(3, 16, 16)
    weight = 1 + 5 * 2 * frames.amax(1, keepdim=True)
    weighted = TokenizerLoss(reconstruction="perceptual", pixel_weight=5.0)
    got = term(weighted, mean_frame=mean_frame, perceptual=lambda x, y: torch.zeros(2))
    assert torch.allclose(got, (weight * error).mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("reconstruction", "wanted"),
    [("weight_free", 0.1 * 0.5 + 0.5**2 + 0.01 * 0.5**2), ("perceptual", 1.0)],
)
def test_errors_are_measured_in_the_units_of_their_authors(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, reconstruction: str, wanted: float
) -> None:
    """Half the range everywhere is 0.5 in Δ-IRIS's loss, 0.3025 in all, and 1 in IRIS's, which spans -1..1."""
    assert wanted in (0.3025, 1.0)
    frames = torch.full((2, 3, 16, 16), 0.75)
    monkeypatch.setattr(
        Tokenizer, "paint", lambda self, z_q, background: torch.full_like(frames, 2 * 0.25 - 1)
    )
    settings = TokenizerLoss(reconstruction=reconstruction)  # type: ignore[arg-type]
    losses, _ = tokenizer_losses(tokenizer, frames, settings, perceptual=lambda x, y: torch.zeros(2))
    assert losses.reconstruction.item() == pytest.approx(wanted, abs=1e-6)


def test_the_commitment_weighs_what_was_published_with_the_reconstruction(tokenizer: Tokenizer) -> None:
    """0.02 in Δ-IRIS's loss, which is the default and the paper preset's; 1 in IRIS's; or what is asked for."""
    frames = torch.rand(2, 3, 16, 16)
    encoded = tokenizer.encode(frames)
    distance = (encoded.z - encoded.z_q).square().mean().item()
    for settings, weight in (
        (presets["paper"].tokenizer_loss, 0.02),
        (TokenizerLoss(reconstruction="perceptual"), 1.0),
        (TokenizerLoss(commitment=0.5), 0.5),
        (TokenizerLoss(commitment=0.0), 0.0),
    ):
        losses, _ = tokenizer_losses(tokenizer, frames, settings, perceptual=lambda x, y: torch.zeros(2))
        assert losses.commitment.item() == pytest.approx(weight * distance, rel=1e-5)


def test_cross_entropy_teaches_pixels_that_were_certain() -> None:
    """It is that of the painted brightness, and a pixel far too dark gets the gradient of its weight, no other."""
    tokenizer = Tokenizer(presets["minatar"].tokenizer)
    frames = torch.rand(2, 3, 10, 10)
    loss = TokenizerLoss(reconstruction="cross_entropy")
    shown = tokenizer.decode(tokenizer.encode(frames).z_q)
    expected = -(frames * shown.log() + (1 - frames) * (1 - shown).log()).mean()
    assert torch.allclose(tokenizer_losses(tokenizer, frames, loss)[0].reconstruction, expected, atol=1e-5)
    last = tokenizer.decoder[-2]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    for certain in (-19.0, 19.0):  # what rounds to 0 or 1 in single precision
        last.bias.data.fill_(certain)
        frames = torch.full((1, 3, 10, 10), float(certain < 0))
        (slope,) = torch.autograd.grad(tokenizer_losses(tokenizer, frames, loss)[0].reconstruction, last.bias)
        assert torch.allclose(slope.abs().sum(), torch.tensor(1.0), atol=1e-3)


def test_what_a_loss_needs_and_does_not_get_is_refused(tokenizer: Tokenizer) -> None:
    """A perceptual loss without a distance, and pixel weights without a mean frame, name what is missing."""
    frames = torch.rand(2, 3, 16, 16)
    with pytest.raises(BadSetting, match="pass a callable"):
        tokenizer_losses(tokenizer, frames, TokenizerLoss(reconstruction="perceptual"))
    with pytest.raises(BadSetting, match="pass the data's mean frame"):
        tokenizer_losses(tokenizer, frames, TokenizerLoss(pixel_weight=1.0))
    with pytest.raises(BadSetting, match="set bounded"):
        tokenizer_losses(tokenizer, frames, TokenizerLoss(reconstruction="cross_entropy"))


def test_frames_of_bytes_or_of_another_size_are_refused(tokenizer: Tokenizer) -> None:
    """The remedy for bytes is in the message."""
    with pytest.raises(BadSetting, match=r"convert with frames.float\(\) / 255"):
        tokenizer.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(BadSetting, match="wanted floats"):
        tokenizer.encode(torch.zeros(1, 3, 16, 8))


def test_revival_moves_dead_codes_onto_distinct_outputs(tokenizer: Tokenizer) -> None:
    """Outputs without a code of their own get one each; live codes and outputs that have one stay out of it."""
    before = tokenizer.embedding.weight.detach().clone()
    dead = torch.zeros(32, dtype=torch.bool)
    dead[:2] = True
    outputs = before[10].repeat(8, 1)  # common, and already a code
    outputs[3] = 5.0
    outputs[6] = -5.0
    tokenizer.revive(dead, outputs.view(2, 2, 2, 16).movedim(-1, 1))
    after = tokenizer.embedding.weight
    assert torch.equal(after[2:], before[2:])
    assert sorted(after[:2, 0].tolist()) == [-5.0, 5.0]


def test_a_local_tokenizer_gives_equal_patches_equal_tokens() -> None:
    """A patch's token and picture do not change with its neighbours."""
    sizes = TokenizerConfig(frame=(3, 16, 16), patch=8, local=True, channels=32, levels=1,
                            attention_at=(), codebook_size=32, token_dim=8)  # fmt: skip
    tokenizer = Tokenizer(sizes).eval()
    frames = torch.rand(1, 3, 16, 16).repeat(2, 1, 1, 1)
    frames[1, :, :8, :8] = 0
    one, other = tokenizer.encode(frames).z
    assert not torch.allclose(one[:, 0, 0], other[:, 0, 0])
    assert torch.allclose(one[:, 1], other[:, 1], atol=1e-6)
    assert torch.allclose(one[:, 0, 1], other[:, 0, 1], atol=1e-6)


def test_it_overfits_a_handful_of_frames(tokenizer: Tokenizer) -> None:
    """Four frames of flat colours come back nearly as they were, from tokens alone."""
    frames = nn.functional.interpolate(torch.rand(4, 3, 2, 2), scale_factor=8)
    optimiser = new_optimiser(tokenizer, Optimisation(learning_rate=3e-3))
    with torch.no_grad():
        tokenizer.revive(torch.ones(32, dtype=torch.bool), tokenizer.encode(frames).z)
    for _ in range(150):
        losses, _ = tokenizer_losses(tokenizer, frames, TokenizerLoss())
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert (tokenizer.eval().encode_decode(frames) - frames).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": (3, 60, 60)}, "divisible by"),
        ({"channels": 48}, "multiple of 32"),
        ({"codebook_size": 1}, "at least 2"),
        ({"local": True}, "one level and no attention"),
        ({"levels": 0}, "at least 1"),
    ],
)
def test_inconsistent_sizes_are_refused(change: dict[str, object], message: str) -> None:
    """Sizes that cannot work are refused when they are given."""
    with pytest.raises(BadSetting, match=message):
        replace(TokenizerConfig(), **change)  # type: ignore[arg-type]


def test_lean_tokenizers_are_small_and_see_beyond_their_patch() -> None:
    """Frames of 10×10 become 2×2 tokens and come back; a token depends on its neighbours' pixels."""
    tokenizer = Tokenizer(presets["minatar"].tokenizer).eval()
    assert count(tokenizer) < 110_000
    frames = torch.rand(2, 3, 10, 10)
    encoded = tokenizer.encode(frames)
    assert encoded.tokens.shape == (2, 4)
    assert tokenizer.decode(encoded.z_q).shape == frames.shape
    changed = frames.clone()
    changed[:, :, 7:, 7:] = 1 - changed[:, :, 7:, 7:]
    assert not torch.equal(tokenizer.encode(changed).z[:, :, 0, 0], encoded.z[:, :, 0, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lean": True}, "lean: wanted one level"),
        ({"codebook": "kmeans"}, "codebook: wanted one of"),
        ({"precision": "float16"}, "precision: wanted one of"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(change: dict[str, object], message: str) -> None:
    """They are refused when they are given."""
    with pytest.raises(BadSetting, match=message):
        TokenizerConfig(**change)  # type: ignore[arg-type]
