"""The numbers of a whole run: what is played, drawn, trained and tested. They are kept with the run as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from reverie import BadSetting
from reverie.iris.config.models import (
    ActorCriticConfig,
    ActorCriticLoss,
    Optimisation,
    TokenizerConfig,
    TokenizerLoss,
    WorldModelConfig,
    at_least,
    one_of,
)

WIDEST = 4.0  # how much more, and how much less, than the epoch's probability a game may play at random
Way = Literal["alike", "priority", "visits", "best"]
WAYS = ("alike", "priority", "visits", "best")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """How the training games are played.

    Attributes:
        environments: games played side by side, one stream of the replay each.
        steps: steps in an epoch, over all of them.
        first_steps: steps in the first epoch; None makes it one like the others.
        until: the last epoch that plays; later ones only train.
        temperature: what divides the policy's logits.
        epsilon: the probability, at each step, that all games play at random.
        first_epsilon: that probability in the first epoch; None makes it one like the others.
        early_epsilon: that probability in the second epoch, from where it falls to `epsilon` linearly over
            the first half of the run; None keeps it constant, as published.
        random_stretch: let each game play at random by itself, and hold a random action for 1 to so many steps;
            None, as published, draws a new one at each step, for all games at once. Steps that are drawn one by
            one hardly ever lead far away: whatever takes five moves to one side is never seen.
        calm_share: share of the games that play without chance. Of the others the first begins random stretches
            with a quarter of the epoch's probability, the last with four times as much, and those between rise by
            equal factors. Wants `random_stretch`; 0 gives all the same. An epoch of nothing but random play has
            no calm games. In a team it is the share of each player's games.
        capacity: steps that the replay keeps.
    """

    environments: int = 1
    steps: int = 200
    first_steps: int | None = None
    until: int = 500
    temperature: float = 1.0
    epsilon: float = 0.01
    first_epsilon: float | None = None
    early_epsilon: float | None = None
    random_stretch: int | None = None
    calm_share: float = 0.0
    capacity: int = 100_000

    def __post_init__(self) -> None:
        at_least(1, environments=self.environments, steps=self.steps, until=self.until)
        at_least(0, temperature=self.temperature)
        at_least(1, random_stretch=1 if self.random_stretch is None else self.random_stretch)
        if not 0 <= self.calm_share < 1 or (self.calm_share and self.random_stretch is None):
            raise BadSetting(
                f"calm_share: wanted a share below 1, and random_stretch beside it, got {self.calm_share} and "
                f"random_stretch = {self.random_stretch}; only games that play at random by themselves can differ"
            )
        for name, steps in (
            ("steps", self.steps),
            ("first_steps", self.first_steps),
            ("capacity", self.capacity),
        ):
            if steps is not None and (steps < 1 or steps % self.environments):
                raise BadSetting(
                    f"{name}: wanted a positive multiple of environments = {self.environments}, got {steps}; "
                    f"each environment plays the same number of steps"
                )
        chances = {
            "epsilon": self.epsilon,
            "first_epsilon": self.first_epsilon,
            "early_epsilon": self.early_epsilon,
        }
        for name, chance in chances.items():
            if chance is not None and not 0 <= chance <= 1:
                raise BadSetting(f"{name}: wanted a probability in 0..1, got {chance}; choose another")

    def steps_in(self, epoch: int) -> int:
        """Return how many steps epoch `epoch`, from 1, plays."""
        if epoch > self.until:
            return 0
        return self.first_steps if epoch == 1 and self.first_steps is not None else self.steps

    def chances(self, epsilon: float, games: int) -> list[float]:
        """Return the probability, for each of some games, that it begins to play at random.

        Args:
            epsilon: the probability of the epoch. games: how many play side by side.
        """
        if not self.calm_share or epsilon == 1:
            return games * [epsilon]
        calm = int(self.calm_share * games)
        spread = [2 * place / max(1, games - calm - 1) - 1 for place in range(games - calm)]  # -1..1
        return calm * [0.0] + [min(1.0, epsilon * WIDEST**power) for power in spread]

    def epsilon_in(self, epoch: int, epochs: int) -> float:
        """Return the probability of random play in epoch `epoch`, from 1, of a run of `epochs`."""
        if epoch == 1 and self.first_epsilon is not None:
            return self.first_epsilon
        if self.early_epsilon is None:
            return self.epsilon
        fallen = min(1.0, 2 * max(0, epoch - 2) / max(1, epochs - 1))
        return self.early_epsilon + (self.epsilon - self.early_epsilon) * fallen


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How training batches are drawn from the replay.

    Attributes:
        over: "episodes" gives every episode the same chance, and then every step in it, as published;
            "steps" gives every step the same chance.
        recent_share: share of each batch that is drawn from the newest quarter of the steps instead.
        recent_starts: the same share for the frames from which imagined games start; None takes
            `recent_share`. Old play knows nothing of what a better policy comes to see.
        starts: how the rest of these frames is drawn. "alike" is as `over` says; "priority" draws a frame in
            proportion to the critic's error when it was drawn last, "visits" what was drawn rarely, "best" from the
            quarter of the episodes with the highest returns, of whose steps each has the same chance.
        windows: the same for the world model's windows; with "priority", in proportion to the model's loss.
    """

    over: Literal["episodes", "steps"] = "episodes"
    recent_share: float = 0.0
    recent_starts: float | None = None
    starts: Way = "alike"
    windows: Way = "alike"

    def __post_init__(self) -> None:
        one_of(("episodes", "steps"), over=self.over)
        one_of(WAYS, starts=self.starts, windows=self.windows)
        for name, share in {"recent_share": self.recent_share, "recent_starts": self.recent_starts}.items():
            if share is not None and not 0 <= share < 1:
                raise BadSetting(f"{name}: wanted a share below 1, got {share}; lower it")

    def recent_in(self, phase: str) -> float:
        """Return the share of each batch of a training that comes from the newest quarter of the steps.

        Args:
            phase: tokenizer, world_model or actor_critic.
        """
        if phase == "actor_critic" and self.recent_starts is not None:
            return self.recent_starts
        return self.recent_share

    def way_in(self, phase: str) -> Way:
        """Return how a training draws what does not come from the newest quarter of the steps."""
        ways: dict[str, Way] = {"world_model": self.windows, "actor_critic": self.starts}
        return ways.get(phase, "alike")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How the policy is tested: on whole games, without random play.

    Attributes:
        every: epochs from one test to the next.
        episodes: games in a test.
        environments: games played side by side.
        temperature: what divides the policy's logits.
        max_steps: the steps after which a game is broken off; None leaves it to the game.
    """

    every: int = 5
    episodes: int = 16
    environments: int = 8
    temperature: float = 0.5
    max_steps: int | None = None

    def __post_init__(self) -> None:
        at_least(1, every=self.every, episodes=self.episodes, environments=self.environments)
        at_least(0, temperature=self.temperature)
        if self.max_steps is not None:
            at_least(1, max_steps=self.max_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The models, their training, and the run around it; the defaults are those of the preset `paper`.

    Attributes:
        tokenizer, world_model, actor_critic: their shapes.
        tokenizer_loss, actor_critic_loss: what they are trained for.
        tokenizer_training, world_model_training, actor_critic_training: how.
        sampling: how their batches are drawn.
        collection: how training games are played.
        evaluation: how the policy is tested.
        epochs: how many epochs the run has.
        cuda_graphs: whether to replay, on a CUDA device, imagined games as one captured graph.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokenizer_loss: TokenizerLoss = field(default_factory=TokenizerLoss)
    tokenizer_training: Optimisation = field(
        default_factory=lambda: Optimisation(batch_size=256, start_after=5)
    )
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    world_model_training: Optimisation = field(
        default_factory=lambda: Optimisation(weight_decay=0.01, start_after=25)
    )
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    actor_critic_loss: ActorCriticLoss = field(default_factory=ActorCriticLoss)
    actor_critic_training: Optimisation = field(default_factory=lambda: Optimisation(start_after=50))
    sampling: Sampling = field(default_factory=Sampling)
    collection: Collection = field(default_factory=Collection)
    evaluation: Evaluation = field(default_factory=Evaluation)
    epochs: int = 600
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs)
        shown = self.tokenizer
        if self.world_model.looks and not (shown.lean and shown.local and not shown.background):
            raise BadSetting(
                f"looks: wanted a tokenizer with lean and local on and background off, got {shown.lean}, {shown.local} "
                f"and {shown.background}; only there a token shows the same everywhere"
            )


def config_to_json(config: Config) -> str:
    """Return a configuration as text, the same for equal ones."""
    return json.dumps(asdict(config), indent=1)


def config_from_json(text: str) -> Config:
    """Return the configuration that `config_to_json` took; settings that the text lacks have their defaults."""
    told: dict[str, Any] = json.loads(text)
    default = Config()
    parts = {}
    for part in fields(Config):
        value = told.get(part.name, getattr(default, part.name))
        if isinstance(value, dict):
            value = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
            value = type(getattr(default, part.name))(**value)
        parts[part.name] = value
    return Config(**parts)


def prolonged(config: Config, done: int, epochs: int) -> Config:
    """Return the configuration of a run that is to have `epochs` epochs, of which `done` are over.

    Raises:
        BadSetting: more are over.
    """
    if epochs < done:
        raise BadSetting(
            f"epochs: wanted at least the {done} that are done, got {epochs}; name a larger number"
        )
    return replace(config, epochs=epochs)


def check_unchanged(
    stored: Config, asked: Config, *, done: int, game: tuple[str, str], seed: tuple[int, int]
) -> None:
    """Refuse to go on with a run by other settings than it was started with; only its epochs may be others.

    Args:
        stored, asked: configurations.
        done: the epochs that are over.
        game, seed: the stored one and the asked one.

    Raises:
        BadSetting: some differ, each of which is named with what is stored and what was asked; or more epochs
            are over than are asked for.
    """
    pairs: dict[str, tuple[Any, Any]] = {"game": game, "seed": seed}
    for part in fields(Config):
        was, wanted = getattr(stored, part.name), getattr(asked, part.name)
        if is_dataclass(was):
            for one in fields(was):
                pairs[f"{part.name}.{one.name}"] = (getattr(was, one.name), getattr(wanted, one.name))
        elif part.name != "epochs":
            pairs[part.name] = (was, wanted)
    told = [f"{name} {wanted} (stored: {was})" for name, (was, wanted) in pairs.items() if was != wanted]
    if told:
        raise BadSetting(
            f"run: wanted the settings that it was started with, got {', '.join(told)}; leave them out to go on, "
            f"or choose another folder"
        )
    prolonged(stored, done, asked.epochs)
