"""examples/ray_actors.py runs as it stands: a killed player comes back, and nothing that was acknowledged is lost."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

pytestmark = pytest.mark.ray

EXAMPLE = Path(__file__).parents[2] / "examples/ray_actors.py"


def test_the_example_counts_what_it_wrote():
    """It tells each second how far it is, and what was acknowledged, held and found is one number."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert sum(line.endswith("drawn") for line in lines) >= 3
    assert sum("player 0 was killed" in line for line in lines) == 1
    assert sum("verified" in line for line in lines) == 2
    acknowledged, held, found, batches = re.search(
        r"acknowledged ([\d,]+) steps, held ([\d,]+), found in the files ([\d,]+); drawn ([\d,]+)",
        done.stdout,
    ).groups()
    assert acknowledged == held == found != "0"
    assert batches != "0"
    assert lines[-1] == "the counts agree, the killed player came back, and the files are sound"
