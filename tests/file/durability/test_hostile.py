"""Files made to do harm: a right answer or one clear error, in little memory and time; never a crash of any kind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.hostile import make_good

SCRIPT = Path(__file__).parents[2] / "support/hostile.py"


def tried(folder: Path, seed: int, count: int) -> dict:
    """Try `count` files in a process of its own, and return what became of them."""
    make_good(folder)
    command = [sys.executable, "-W", "error", str(SCRIPT), str(folder), str(seed), "0", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [line for line in lines if "error" in line]
    assert done.returncode == 0, f"it ended with {done.returncode} at {lines[-1]}: {done.stderr[-2000:]}"
    assert not wrong, "\n".join(f"{line['number']}: {line['what']}: {line['trace']}" for line in wrong[:3])
    return lines[-1]


@pytest.mark.long
@pytest.mark.parametrize("seed", [0])
def test_a_hostile_file_is_refused_or_read_aright(seed, tmp_path):
    """Open, sample, add to, copy, verify, inspect and film files with a few changes that no checksum tells of."""
    result = tried(tmp_path, seed, 300)
    assert result["tried"] == 300
    assert 30 < result["used"] < 240, "some are harmless, most are not"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_many_hostile_files_are_refused_or_read_aright(seed, tmp_path):
    """The same with other files, twenty thousand in all."""
    assert tried(tmp_path, seed, 1000)["tried"] == 1000
