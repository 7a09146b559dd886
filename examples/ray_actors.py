"""Four processes play CartPole and write; one learner draws meanwhile; one player is killed and comes back.

It takes less than a minute: pip install 'reverie[ray]' gymnasium && python examples/ray_actors.py
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import ray

import reverie as rv
from reverie.ray import ShardedBuffer, Writer

PLAYERS, SHARDS = 4, 2
CHUNK = 200  # steps that a player plays between two reports
SECONDS = 8.0  # how long the learner draws
SPEC = rv.StepSpec(rv.Field((4,), "float32"), rv.Field((), "int64"))


class Player:
    """Plays at random. Ray starts it again when its process dies; `take_over` then gives it its stream again."""

    def __init__(self) -> None:
        self.writer = None
        self.env, self.rng = gymnasium.make("CartPole-v1"), np.random.default_rng()
        self.obs, _ = self.env.reset()

    def play(self, writer: Writer, steps: int) -> tuple[int, int]:
        """Play steps; return this process, and how many steps its stream has, all of which are safe."""
        self.writer = self.writer or writer  # a process that was started again has none yet
        for _ in range(steps):
            action = int(self.rng.integers(2))
            seen, reward, terminated, truncated, _ = self.env.step(action)
            ended = terminated or truncated
            self.writer.add(obs=self.obs, action=action, reward=float(reward), terminated=terminated,
                            truncated=truncated, final_obs=seen if ended else None)  # fmt: skip
            self.obs = self.env.reset()[0] if ended else seen
        self.writer.flush()
        return os.getpid(), self.writer.claim()


class Crew:
    """The players, and what each has told: its process, and how many steps of its stream are safe."""

    def __init__(self, buffer: ShardedBuffer) -> None:
        self.writers = [buffer.writer(number, take_over=True) for number in range(PLAYERS)]
        self.actors = [ray.remote(max_restarts=-1)(Player).remote() for _ in range(PLAYERS)]
        self.process, self.heads = [0] * PLAYERS, [0] * PLAYERS
        self.waiting = {self.ask(number): number for number in range(PLAYERS)}

    def ask(self, number: int) -> ray.ObjectRef:
        """Let a player play, and return what it will tell."""
        return self.actors[number].play.remote(self.writers[number], CHUNK)

    def look(self, *, go_on: bool) -> None:
        """Note what players have told meanwhile; they go on, if `go_on`. Those that died play again."""
        for done in ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=0.01)[0]:
            number, told = self.waiting.pop(done), False
            try:
                self.process[number], self.heads[number] = ray.get(done)
                told = True
            except ray.exceptions.RayActorError:
                time.sleep(0.1)  # Ray is starting it again
            if go_on or not told:
                self.waiting[self.ask(number)] = number


def learn(buffer: ShardedBuffer, crew: Crew) -> int:
    """Draw for some seconds, a line a second, until a killed player is back; return how many batches were drawn."""
    while not all(crew.process):
        crew.look(go_on=True)
    began = told = time.monotonic()
    batches, victim = 0, 0
    while (passed := time.monotonic() - began) < SECONDS or crew.process[0] == victim:
        if passed > 10 * SECONDS:
            raise SystemExit("wanted the killed player back, got none; see whether the machine is overloaded")
        crew.look(go_on=True)
        if buffer.count_windows(10):
            batch = buffer.sample(64, 10)
            assert batch.mask.all()
            batches += 1
        if not victim and passed > SECONDS / 4:
            victim = crew.process[0]
            os.kill(victim, signal.SIGKILL)
            print(f"{passed:5.1f} s  player 0 was killed, process {victim}")
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            print(
                f"{passed:5.1f} s  {len(buffer):6,} steps of {PLAYERS} players, {batches:5,} batches of 64 x 10 drawn"
            )
    print(f"{passed:5.1f} s  player 0 is back, process {crew.process[0]}")
    while crew.waiting:
        crew.look(go_on=False)
    return batches


def main() -> None:
    """Make the buffer, let everybody work, and count."""
    ray.init(num_cpus=PLAYERS + SHARDS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        buffer = ShardedBuffer(
            SPEC, 400_000, shards=SHARDS, streams_per_shard=PLAYERS // SHARDS, directory=folder, seed=0
        )
        crew = Crew(buffer)
        batches = learn(buffer, crew)
        acknowledged, held = sum(crew.heads), len(buffer)
        for actor in crew.actors:
            ray.kill(actor)
        buffer.stop()
        ray.shutdown()
        found = 0
        for path in sorted(Path(folder).glob("*.replay")):
            subprocess.run([sys.executable, "-m", "reverie", "verify", path, "--quiet"], check=True)
            with rv.open(path, mode="r") as shard:
                found += len(shard)
                print(f"{path.name} verified, {len(shard):,} steps")
    print(
        f"acknowledged {acknowledged:,} steps, held {held:,}, found in the files {found:,}; drawn {batches:,} batches"
    )
    assert acknowledged == held == found
    print("the counts agree, the killed player came back, and the files are sound")


if __name__ == "__main__":
    main()
