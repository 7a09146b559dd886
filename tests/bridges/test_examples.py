"""The scripts in examples/ run as they stand, and learn."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_example_learns(name, capsys):
    """The losses that it prints fall to less than half, and it is short."""
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    losses = [float(number) for number in re.findall(r"loss ([0-9.]+)", capsys.readouterr().out)]
    assert len(losses) >= 3
    assert 0 < losses[-1] < losses[0] / 2
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


def test_there_are_examples():
    """The folder is where the test looks for it."""
    assert {"dataloader.py", "feed_jax.py", "feed_torch.py"} <= {path.name for path in EXAMPLES.glob("*.py")}
