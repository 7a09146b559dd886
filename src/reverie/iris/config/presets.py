"""Five configurations by name.

`paper` is IRIS as published, with the reconstruction loss of Δ-IRIS, which needs no pretrained network. `demo`
trains a tokenizer and a world model in minutes on two processor cores. `minatar` learns to play a game of ten by
ten pixels in minutes on two processor cores. `minatar-columns` and `minatar-rows` learn the same games for
longer; their tokens are columns or rows of pixels, which show what squares cannot.
"""

from __future__ import annotations

from dataclasses import replace

from reverie import BadSetting
from reverie.iris.config.models import (
    ActorCriticConfig,
    ActorCriticLoss,
    Optimisation,
    TokenizerConfig,
    TokenizerLoss,
    WorldModelConfig,
)
from reverie.iris.config.run import Collection, Config, Evaluation, Sampling

_DEMO = Config(
    # Rows of pixels as patches: the paddle is one token, the ball another. Without a background most of the
    # training would go into walls that never move.
    tokenizer=TokenizerConfig(
        patch=8,
        patch_width=64,
        local=True,
        lean=True,
        channels=256,
        levels=1,
        attention_at=(),
        codebook_size=512,
        token_dim=32,
        codebook="average",
        average_decay=0.95,
        bounded=True,
        background=True,
    ),
    tokenizer_loss=TokenizerLoss(
        reconstruction="cross_entropy",
        reconstruction_weight=3.0,
        commitment=0.25,
        pixel_weight=10.0,
        revive_every=25,
    ),
    tokenizer_training=Optimisation(steps=3600, batch_size=64, learning_rate=3e-3, final_learning_rate=1e-4),
    # As many blocks as the three known steps and ten imagined ones need.
    world_model=WorldModelConfig(
        blocks=14, layers=2, heads=4, width=128, dropout=0.0, positions="factored", init_std=0.06
    ),
    # Many small batches: most tokens of a frame repeat the last one, so windows teach much the same. Without a
    # warm-up some runs never find out what the actions do.
    world_model_training=Optimisation(
        steps=2800,
        batch_size=8,
        learning_rate=2e-3,
        warm_up=200,
        final_learning_rate=1e-4,
        weight_decay=0.01,
        clip=1.0,
    ),
)

_MINATAR = Config(
    tokenizer=TokenizerConfig(
        frame=(3, 10, 10),
        patch=5,
        lean=True,
        channels=64,
        levels=1,
        attention_at=(),
        codebook_size=256,
        token_dim=32,
        codebook="average",
        bounded=True,
    ),
    tokenizer_loss=TokenizerLoss(
        reconstruction="cross_entropy",
        reconstruction_weight=3.0,
        commitment=0.25,
        pixel_weight=5.0,
        revive_every=50,
    ),
    # Later rates are low: where tokens drift, the world model has to learn its language anew.
    tokenizer_training=Optimisation(
        steps=80,
        first_steps=1000,
        batch_size=256,
        learning_rate=5e-4,
        first_learning_rate=2e-3,
        final_learning_rate=1e-4,
    ),
    world_model=WorldModelConfig(
        blocks=11, layers=2, heads=2, width=64, dropout=0.0, positions="factored", init_std=0.06
    ),
    world_model_training=Optimisation(
        steps=160,
        first_steps=450,
        batch_size=64,
        learning_rate=2e-3,
        final_learning_rate=5e-4,
        weight_decay=0.01,
    ),
    actor_critic=ActorCriticConfig(
        channels=(16, 32), strides=(1, 2), pooled=False, recurrent=False, width=128, careful_heads=True
    ),
    actor_critic_loss=ActorCriticLoss(
        horizon=11,
        burn_in=0,
        gamma=0.97,
        entropy=0.02,
        value=0.5,
        reward="expected",
        mask_after_end=True,
        scaled_advantages=True,
    ),
    actor_critic_training=Optimisation(
        steps=140,
        first_steps=60,
        batch_size=64,
        learning_rate=3e-3,
        final_learning_rate=3e-4,
        clip=1.0,
        epsilon=1e-5,
    ),
    sampling=Sampling(over="steps", recent_share=0.5),
    collection=Collection(
        environments=32,
        steps=8192,
        first_steps=20_000,
        epsilon=0.02,
        first_epsilon=1.0,
        early_epsilon=0.3,
        capacity=96_000,
    ),
    evaluation=Evaluation(every=1, episodes=50, environments=50, max_steps=1000),
    epochs=4,
)

# Columns show what squares cannot. Breakout has few columns, one under the other of which bricks are missing, but
# far more squares than codes. What keeps the columns' codes apart lets the tokenizer go on learning at full rate.
_MINATAR_COLUMNS = replace(
    _MINATAR,
    tokenizer=replace(_MINATAR.tokenizer, patch=10, patch_width=1, local=True, average_decay=0.95),
    tokenizer_loss=replace(_MINATAR.tokenizer_loss, revive_every=25, revive_beyond=0.01),
    tokenizer_training=replace(
        _MINATAR.tokenizer_training,
        steps=400,
        first_steps=500,
        learning_rate=1e-3,
        final_learning_rate=5e-4,
    ),
    # A frame shows all there is to know, so the model need not look far back; short windows cost less. What it learns
    # of one column holds for those that look alike, whichever code they get.
    world_model=replace(_MINATAR.world_model, blocks=4, skip_first=True, looks=True, init_std=0.12),
    world_model_training=replace(_MINATAR.world_model_training, steps=400, first_steps=600),
    # Imagining a game costs several times what learning from it does.
    actor_critic_loss=replace(_MINATAR.actor_critic_loss, entropy=0.05, passes=3),
    actor_critic_training=replace(_MINATAR.actor_critic_training, steps=120),
    sampling=replace(_MINATAR.sampling, recent_starts=0.9),
    # Calm games come deep into the game. Held random actions show the model what the policy never does.
    collection=replace(
        _MINATAR.collection,
        environments=64,
        steps=12_288,
        first_steps=20_032,
        epsilon=0.05,
        early_epsilon=0.1,
        random_stretch=8,
        calm_share=0.5,
        capacity=160_000,
    ),
    epochs=28,
)

# Where things move along rows, a row shows one of them. Nothing but the patch's shape differs.
_MINATAR_ROWS = replace(
    _MINATAR_COLUMNS, tokenizer=replace(_MINATAR_COLUMNS.tokenizer, patch=1, patch_width=10)
)

presets: dict[str, Config] = {
    "paper": Config(),
    "demo": _DEMO,
    "minatar": _MINATAR,
    "minatar-columns": _MINATAR_COLUMNS,
    "minatar-rows": _MINATAR_ROWS,
}


def preset_named(name: str) -> Config:
    """Return a preset.

    Raises:
        BadSetting: there is none of that name.
    """
    if name not in presets:
        raise BadSetting(f"preset: wanted one of {', '.join(sorted(presets))}, got {name!r}; choose one")
    return presets[name]
