"""Tokens by their looks: equal patches mean the same whatever their codes, and what is kept is never out of date."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie import BadSetting, Field, ReplayBuffer, StepSpec
from reverie.iris.config import Config, Optimisation, TokenizerConfig, WorldModelConfig, presets
from reverie.iris.learning.train import train_world_model
from reverie.iris.models import Agent, Tokenizer, WorldModel

COLUMNS = TokenizerConfig(
    frame=(3, 8, 8), patch=8, patch_width=2, lean=True, local=True, channels=32, levels=1, attention_at=(),
    codebook_size=12, token_dim=8, codebook="average", bounded=True,
)  # fmt: skip
SIZES = WorldModelConfig(blocks=3, layers=1, heads=2, width=16, dropout=0.0, init_std=0.1, looks=True)


@pytest.fixture
def model() -> WorldModel:
    """A model of four columns a frame, twelve codes of random patches and two actions."""
    model = WorldModel(SIZES, tokens_per_frame=4, codebook_size=12, actions=2, patch_pixels=48)
    model.see(torch.rand(12, 48))
    return model


def test_codes_that_show_the_same_mean_the_same(model: WorldModel) -> None:
    """With the codes in another order, tokens of the same patches foretell the same patches, rewards and ends."""
    tokens = torch.randint(12, (2, 15))
    tokens[:, 4::5] = torch.tensor([0, 1, 1])
    order = torch.randperm(12)
    before = model(tokens)
    model.see(model.frame_tokens.patches[order])
    renamed = order.argsort()[tokens]
    renamed[:, 4::5] = tokens[:, 4::5]
    after = model(renamed)
    assert torch.allclose(after.observation, before.observation[..., order], atol=1e-5)
    assert torch.allclose(after.reward, before.reward, atol=1e-5)
    assert not torch.allclose(model(tokens).observation, before.observation, atol=1e-3)


def test_what_was_made_of_the_weights_is_never_out_of_date(model: WorldModel) -> None:
    """In use the vectors are made once; new patches, loaded weights and further training make them anew."""
    model.eval()
    part = model.frame_tokens

    def made() -> torch.Tensor:
        anew: torch.Tensor = part.table()  # with gradient, as in training
        with torch.no_grad():
            kept: torch.Tensor = part.table()
            assert part.table() is kept
        assert torch.equal(kept, anew)
        assert anew.requires_grad
        assert not kept.requires_grad
        return kept

    tables = [made()]
    model.see(torch.rand(12, 48))
    tables.append(made())
    model.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items()})
    tables.append(made())
    model.train()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    model.eval()
    tables.append(made())
    for number, one in enumerate(tables):
        assert all(not torch.allclose(one, other, atol=1e-4) for other in tables[:number])


def test_training_sees_what_the_codes_show_now(model: WorldModel) -> None:
    """Before it learns, the model takes note of the tokenizer's patches, each as a frame full of it shows it."""
    tokenizer = Tokenizer(COLUMNS).eval()
    with torch.no_grad():
        tokenizer.embedding.weight.normal_()
    frames = tokenizer.decode_tokens(torch.arange(12)[:, None].expand(12, 4))
    patches = tokenizer.patches()
    assert torch.equal(patches.view(12, 3, 8, 2).repeat(1, 1, 1, 4), frames)
    assert patches.std(0).mean() > 0.01
    spec = StepSpec(obs=Field((3, 8, 8), "uint8"), action=Field((), "int64"))
    buffer = ReplayBuffer(spec, 40, seed=0)
    for step in range(40):
        buffer.add(obs=np.full((3, 8, 8), 6 * step, np.uint8), action=step % 2, reward=0.0,
                   terminated=step % 10 == 9, truncated=False)  # fmt: skip
    settings = Optimisation(steps=40, batch_size=8, learning_rate=3e-3)
    losses = [float(done.losses.total) for done in train_world_model(model, tokenizer, buffer, settings)]
    assert torch.equal(model.frame_tokens.patches, patches)
    assert torch.equal(model.observation_head.patches, patches)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_an_agent_with_looks_imagines(config: Config) -> None:
    """Its games go on from frame to frame; a tokenizer whose tokens show this here and that there is refused."""
    agent = Agent(replace(config, tokenizer=COLUMNS, world_model=SIZES), 2).eval()
    played = agent.imagine(torch.rand(2, 4, 3, 8, 8), torch.ones(2, 4, dtype=torch.bool))
    assert played.frames.shape == (2, 4, 3, 8, 8)
    for wrong in (replace(COLUMNS, local=False), replace(COLUMNS, background=True)):
        with pytest.raises(
            BadSetting, match="looks: wanted a tokenizer with lean and local on and background off"
        ):
            replace(presets["minatar-columns"], tokenizer=wrong, world_model=SIZES)
