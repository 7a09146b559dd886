"""How fast IRIS trains on this machine: an update of each phase, imagined frames, and the hours of a whole run.

`python -m reverie.iris.bench` needs NumPy and PyTorch alone; `reverie bench iris` is the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from reverie import BadSetting, EpisodeUniform, Field, ReplayBuffer, StepSpec
from reverie.iris.config import Config, Optimisation, Precision, preset_named, presets
from reverie.iris.learning import (
    TOKENS,
    Progress,
    mirror_tokens,
    train_actor_critic,
    train_tokenizer,
    train_world_model,
)
from reverie.iris.models import Agent, Imagine, draw, usable_device
from reverie.torch import DeviceMirror

ACTIONS = 4
STORED_STEPS = 1_000
EPISODE = 200
WARM_UPS = 2
FIRST_SHARE, GROWTH = 1 / 64, 8  # of each batch on a processor, and how much more is then tried
LIMIT_S = 120.0  # more is tried while that would take no longer


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured; every time is a median, in seconds.

    Attributes:
        machine: the processor or accelerator, and PyTorch's version.
        precision: of tokenizer and world model.
        captured: whether rollouts were replayed as a CUDA graph.
        share: of each batch of the preset that was used.
        batches: frames, windows and games in a batch of each phase.
        tokenizer_s, world_model_s, actor_critic_s: an update, drawing its batch from a replay included.
        imagined_frames_per_s: of all games of a batch together, without their context.
        imagining_s, uncached_s: such games with the cache, and read as whole sequences for every token.
        hours: of all updates of the run; None unless batches were whole: what a part of one takes is mostly
            what every update costs, and tells nothing of a whole one.
    """

    machine: str
    precision: str
    captured: bool
    share: float
    batches: tuple[int, int, int]
    tokenizer_s: float
    world_model_s: float
    actor_critic_s: float
    imagined_frames_per_s: float
    imagining_s: float
    uncached_s: float
    hours: float | None

    def report(self) -> str:
        """Return it as a few lines to read."""
        frames, windows, games = self.batches
        captured = ", rollouts captured" if self.captured else ""
        return "\n".join(
            (
                f"on            {self.machine}, {self.precision}{captured}",
                f"tokenizer     {1000 * self.tokenizer_s:10.1f} ms an update of {frames} frames",
                f"world model   {1000 * self.world_model_s:10.1f} ms an update of {windows} windows",
                f"actor-critic  {1000 * self.actor_critic_s:10.1f} ms an update of {games} games",
                f"imagination   {self.imagined_frames_per_s:10,.1f} frames/s",
                f"the cache     {self.uncached_s / self.imagining_s:10.1f} times as fast as without one "
                f"({self.imagining_s:.3f} s and {self.uncached_s:.3f} s)",
                f"a whole run   {self.hours:10.1f} hours of updates"
                if self.hours is not None
                else f"a whole run   cannot be told from batches of {self.share:.3g} of the preset's; --share 1 "
                f"measures whole ones",
            )
        )


def measure(config: Config, *, device: torch.device, share: float, repeats: int, captured: bool) -> Speed:
    """Return how fast an agent trains on random frames.

    Args:
        config: its sizes, batches and schedule.
        device: where.
        share: of each batch that is used, above 0; small machines measure small batches.
        repeats: timed updates of each phase, at least 1.
        captured: replay rollouts as a CUDA graph.
    """
    if not share > 0 or repeats < 1:
        raise BadSetting(f"share, repeats: wanted positive numbers, got {share}, {repeats}; raise them")
    torch.manual_seed(0)
    agent = Agent(config, ACTIONS).to(device)
    buffer = _random_replay(config)
    phases = (config.tokenizer_training, config.world_model_training, config.actor_critic_training)
    scaled = [_scaled(training, share, repeats) for training in phases]
    imagine = Imagine(agent, captured=captured)
    updates = _updates_of_phases(agent, buffer, scaled, imagine)
    times = [_per_update(each, device) for each in updates]
    agent.eval()
    frames, windows, games = (training.batch_size for training in scaled)
    obs = torch.randint(256, (games, 1, *config.tokenizer.frame), dtype=torch.uint8, device=device)
    mask = torch.ones(games, 1, dtype=torch.bool, device=device)
    imagining = _timed(lambda: imagine(obs, mask), repeats, device)
    uncached = _timed(lambda: imagine_without_cache(agent, obs[:, 0].float() / 255), 1, device, warm_ups=0)
    hours = None
    if all(part.batch_size == whole.batch_size for part, whole in zip(scaled, phases, strict=True)):
        seconds = (
            time * updates_of(training, config.epochs) for time, training in zip(times, phases, strict=True)
        )
        hours = sum(seconds) / 3600
    return Speed(
        _machine(device),
        config.world_model.precision,
        captured,
        share,
        (frames, windows, games),
        times[0],
        times[1],
        times[2],
        games * (config.actor_critic_loss.horizon - 1) / imagining,
        imagining,
        uncached,
        hours,
    )


def _scaled(training: Optimisation, share: float, repeats: int) -> Optimisation:
    size = max(1, round(share * training.batch_size))
    return replace(training, batch_size=size, steps=WARM_UPS + repeats, first_steps=None)


def _updates_of_phases(
    agent: Agent, buffer: ReplayBuffer, trainings: Sequence[Optimisation], imagine: Imagine
) -> Iterator[Iterator[Progress]]:
    """Yield the updates of tokenizer, world model and actor-critic, one phase after the other."""
    tokenizer, world_model, actor_critic = trainings
    sampler = EpisodeUniform()
    # Nobody brings a perceptual distance.
    plain = replace(agent.config.tokenizer_loss, reconstruction="weight_free")
    yield train_tokenizer(agent.tokenizer, buffer, tokenizer, plain, sampler=sampler)
    mirror = mirror_tokens(agent.tokenizer, buffer)
    windows = train_world_model(
        agent.world_model, agent.tokenizer, buffer, world_model, sampler=sampler, mirror=mirror
    )
    yield _encoded_anew(windows, mirror)
    yield train_actor_critic(agent, buffer, actor_critic, sampler=sampler, imagine=imagine)


def _encoded_anew(windows: Iterator[Progress], mirror: DeviceMirror) -> Iterator[Progress]:
    """Let no update find tokens of an earlier one: as slow as it can be in a run."""
    for progress in windows:
        mirror.touch(TOKENS)
        yield progress


def updates_of(training: Optimisation, epochs: int) -> int:
    """Return how many updates a run of `epochs` epochs makes."""
    active = max(0, epochs - training.start_after)
    return sum(len(training.rates(first=epoch == 0)) for epoch in range(active))


@torch.no_grad()
def imagine_without_cache(agent: Agent, frame: Tensor) -> Tensor:
    """Return the frames (B, T, C, H, W) of imagined games, reading the whole sequence for every token.

    The same work as `Agent.imagine` without context does: the policy, the world model's draws, the decoder.
    Games longer than the model's context are not for this.

    Args:
        agent: in evaluation mode.
        frame: (B, C, H, W) float in 0..1, where the games start.
    """
    model, tokenizer = agent.world_model, agent.tokenizer
    memory = agent.actor_critic.initial_memory(len(frame))
    sequence = tokenizer.encode(frame).tokens
    shown = [tokenizer.decode_tokens(sequence)]
    for _ in range(agent.config.actor_critic_loss.horizon - 1):
        logits, _, memory = agent.actor_critic(shown[-1], memory)
        sequence = torch.cat((sequence, draw(logits).unsqueeze(1)), 1)
        for drawn in range(model.block - 1):
            read = model.read(sequence)[:, -1]
            if not drawn:
                for head in (model.reward_head, model.end_head):
                    draw(head(read))
            sequence = torch.cat((sequence, draw(model.observation_head(read)).unsqueeze(1)), 1)
        shown.append(tokenizer.decode_tokens(sequence[:, 1 - model.block :]))
    return torch.stack(shown, 1)


def _random_replay(config: Config) -> ReplayBuffer:
    frame = config.tokenizer.frame
    buffer = ReplayBuffer(StepSpec(Field(frame, "uint8"), Field((), "int64")), STORED_STEPS, seed=0)
    rng = np.random.default_rng(0)
    for step in range(STORED_STEPS):
        buffer.add(
            obs=rng.integers(0, 256, frame, np.uint8),
            action=step % ACTIONS,
            reward=0.0,
            terminated=step % EPISODE == EPISODE - 1,
            truncated=False,
        )
    return buffer


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _per_update(updates: Iterator[Progress], device: torch.device) -> float:
    moments = []
    for _ in updates:
        _wait(device)
        moments.append(perf_counter())
    return median(after - before for before, after in pairwise(moments[WARM_UPS - 1 :]))


def _timed(call: Callable[[], object], repeats: int, device: torch.device, warm_ups: int = WARM_UPS) -> float:
    times = []
    for _ in range(warm_ups + repeats):
        _wait(device)
        began = perf_counter()
        call()
        _wait(device)
        times.append(perf_counter() - began)
    return median(times[warm_ups:])


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} processor, {torch.get_num_threads()} threads"
    return f"{name}, PyTorch {torch.__version__}"


def run_bench(
    *,
    preset: str = "paper",
    device: str | None = None,
    precision: Precision | None = None,
    share: float | None = None,
    repeats: int = 5,
    captured: bool | None = None,
    out: Path | None = None,
) -> Speed:
    """Measure a preset and return what came of it.

    Args:
        preset: the name of a set of sizes.
        device: None takes an accelerator if there is one.
        precision: of tokenizer and world model; None is as the preset has it.
        share: of each batch that is used; None is all of it on an accelerator, and on a processor if that is
            measured within two minutes, else an eighth or a 64th.
        repeats: timed updates of each phase.
        captured: replay rollouts as a CUDA graph; None does on an accelerator.
        out: where to write the numbers as JSON; None writes no file.

    Raises:
        BadSetting: an unknown preset, no such device, or numbers that are not positive.
    """
    where = usable_device(device)
    config = preset_named(preset)
    if precision is not None:
        config = replace(
            config,
            tokenizer=replace(config.tokenizer, precision=precision),
            world_model=replace(config.world_model, precision=precision),
        )
    accelerated = where.type == "cuda"
    captured = accelerated if captured is None else captured
    grows = share is None and not accelerated
    share = (FIRST_SHARE if grows else 1.0) if share is None else share
    while True:
        began = perf_counter()
        speed = measure(config, device=where, share=share, repeats=repeats, captured=captured)
        if not grows or share >= 1 or GROWTH * (perf_counter() - began) > LIMIT_S:
            break
        share *= GROWTH
    if out is not None:
        out.write_text(json.dumps(asdict(speed), indent=2) + "\n")
    return speed


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(prog="python -m reverie.iris.bench", description=__doc__)
    parser.add_argument("--preset", default="paper", help=f"one of {', '.join(sorted(presets))}")
    parser.add_argument("--device", help="cpu, cuda, …; an accelerator if there is one")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of tokenizer and world model")
    parser.add_argument(
        "--share", type=float, help="of each batch; 1, or on a processor less if that took over two minutes"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed updates of each phase")
    parser.add_argument(
        "--captured", action=argparse.BooleanOptionalAction, help="replay rollouts as a CUDA graph"
    )
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    sys.stdout.write(run_bench(**vars(parser.parse_args())).report() + "\n")


if __name__ == "__main__":
    main()
