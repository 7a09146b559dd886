"""The scripts in examples/ run as they stand, and learn."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {"dataloader.py", "feed_jax.py", "feed_torch.py",
           "dreamer_batches.py", "diamond_batches.py", "tdmpc2_batches.py", "ray_actors.py"}  # fmt: skip


def assert_learns(output: str, name: str) -> None:
    losses = [float(number) for number in re.findall(r"loss ([0-9.]+)", output)]
    assert len(losses) >= 3
    assert 0 < losses[-1] < losses[0] / 2
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


@pytest.mark.parametrize("name", ["feed_jax.py", "feed_torch.py"])
def test_the_example_learns(name, capsys):
    """The losses that it prints fall to less than half, and it is short."""
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert_learns(capsys.readouterr().out, name)


@pytest.mark.parametrize("name", ["dataloader.py"])
def test_the_example_with_workers_learns(name):
    """So do those of an example that forks, in a process of its own, where there are no threads of other tests."""
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert_learns(done.stdout, name)


def test_no_example_is_left_out():
    """Each script in the folder is one of the above, of tests/docs/test_clients.py, or of tests/with_ray."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == SCRIPTS
