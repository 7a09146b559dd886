"""What the writer puts into the file, read from its tables."""

import numpy as np
import pytest

import reverie as rv
from reverie.file import ReplayFile

SPEC = rv.StepSpec(rv.Field((2,), "uint8"), rv.Field((), "int64"), {"note": rv.Field((), "int64")})


def add(buffer: rv.ReplayBuffer, number: int, ends: tuple[int, ...] = ()) -> None:
    frame = np.full(2, number % 256, np.uint8)
    last = number in ends
    buffer.add(obs=frame, action=number, reward=1.0, terminated=last, truncated=False,
               final_obs=frame + 1 if last else None, note=number)  # fmt: skip


def steps_of(path) -> list[tuple[int, int, bool]]:
    """Return (id, ended, whether it has a final observation) of the newest steps in a file."""
    file = ReplayFile.open(path, "r")
    found = [(step.id, step.ended, step.final is not None) for step in file.steps()]
    file.close()
    return found


@pytest.mark.parametrize("durability", ["step", "chunk"])
def test_the_step_that_ends_an_episode_says_so(tmp_path, durability):
    """Whether it was put by itself or by a flush; the steps around it say nothing."""
    with rv.ReplayBuffer(SPEC, 100, seed=0, path=tmp_path / "a.replay", durability=durability) as buffer:
        for number in range(8):
            add(buffer, number, ends=(4,))
        buffer.flush()
        assert steps_of(buffer.path) == [(number, number == 4, number == 4) for number in range(8)]


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_new_values_reach_sealed_runs_and_newest_steps(tmp_path, durability, residency):
    """Every step of a window that lies in both is rewritten, and no other; ends stay where they were."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0, path=path, durability=durability, residency=residency)
    for number in range(40):
        add(buffer, number, ends=(36, 38))
    buffer.flush()
    batch = buffer.sample(60, 6, boundary="pad_both")
    buffer.write_back(batch, note=batch.step_ids() + 1000)
    rewritten = set(batch.step_ids()[batch.mask].tolist())
    assert {31, 32, 36, 38} <= rewritten, "of the seed"
    assert steps_of(path)[-8:] == [
        (number, number in (36, 38), number in (36, 38)) for number in range(32, 40)
    ]
    buffer.close()
    with rv.open(path, mode="r") as again:
        seen = again.sample(400, 1, boundary="pad_both")
        for step, note in zip(
            seen.step_ids()[:, 0].tolist(), seen.extras["note"][:, 0].tolist(), strict=True
        ):
            assert note == step + 1000 * (step in rewritten)


def test_records_of_episodes_that_are_gone_are_dropped(tmp_path):
    """When a run is sealed after the ring came round: the oldest that stays has a live step."""
    with rv.ReplayBuffer(SPEC, 64, seed=0, path=tmp_path / "a.replay") as buffer:
        for number in range(130):
            add(buffer, number, ends=tuple(range(9, 130, 10)))
        file = ReplayFile.open(buffer.path, "r")
        assert [one.ordinal for one in file.episodes()] == list(range(6, 13)), (
            "steps 64 and on were live at the seal"
        )
        file.close()


def test_a_sealed_run_takes_the_place_of_its_steps(tmp_path):
    """32 steps are sealed when the 33rd comes, and not before."""
    with rv.ReplayBuffer(SPEC, 100, seed=0, path=tmp_path / "a.replay") as buffer:
        for number in range(33):
            file = ReplayFile.open(buffer.path, "r")
            assert file.runs() == []
            file.close()
            add(buffer, number)
        file = ReplayFile.open(buffer.path, "r")
        assert [run for run, _ in file.runs()] == [(0, 0, 0, 32)]
        assert file.stops() == ({0: 32}, {0: 33})
        file.close()


@pytest.mark.parametrize("durability", ["step", "chunk"])
def test_final_observations_that_the_file_has_take_no_memory(tmp_path, durability):
    """With residency "disk", once their run is sealed: those of the newest steps alone are held. All can be read."""
    spec = rv.StepSpec(rv.Field((1000,), "uint8"), rv.Field((), "int64"))
    noise = np.random.default_rng(0).integers(0, 256, (160, 1000), np.uint8)
    with rv.ReplayBuffer(
        spec, 200, seed=0, path=tmp_path / "a.replay", durability=durability, residency="disk"
    ) as buffer:
        for number in range(160):
            ends = number % 4 == 3
            buffer.add(obs=noise[number], action=0, reward=1.0, terminated=ends, truncated=False,
                       final_obs=noise[number] if ends else None)  # fmt: skip
        assert buffer.engine.finals.nbytes < 17 * 1000
        for number in range(40):
            np.testing.assert_array_equal(buffer.episode(number).final_obs, noise[4 * number + 3])


def test_a_file_without_a_rewritten_run_counts_none(tmp_path):
    """By this count an interrupted `write_back` is told from one that has happened: the first one is number 1."""
    with rv.ReplayBuffer(SPEC, 100, seed=0, path=tmp_path / "a.replay", durability="step") as buffer:
        for number in range(40):
            add(buffer, number)
        writer = buffer.engine.changes.writer
        for count in range(3):
            writer.marks.rewrites = 99
            writer.marks.ask(writer.file)
            assert writer.rewrites == count
            batch = buffer.sample(60, 6, boundary="pad_both")
            buffer.write_back(batch, note=batch.step_ids() + count)
