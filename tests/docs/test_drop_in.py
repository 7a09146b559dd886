"""docs/drop-in.md: its blocks run, each after the first one, and it leaves out no public name."""

import functools
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import reverie as rv

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/drop-in.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def trainers(monkeypatch):
    """Modules of the two libraries' names, which hold a class of the name that is to be replaced."""
    found = []
    for library in ("simulusion", "world_models"):
        parent = None
        for name in (library, f"{library}.training", f"{library}.training.train_iris"):
            module = ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            if parent is not None:
                setattr(parent, name.rpartition(".")[2], module)
            parent = module
        module.IRISReplayBuffer = object
        found.append(module)
    return found


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_the_example_runs(number, monkeypatch, tmp_path, trainers):
    """Every block runs after the first one, which makes the buffer that all of them look at."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for block in (0, number):
        exec(compile(EXAMPLES[block], f"drop-in.md, block {block}", "exec"), names)


def test_the_line_puts_our_class_into_their_trainers(trainers):
    """What a trainer then makes with the arguments that it uses is our buffer, with a seed."""
    names = {"functools": functools, "rv": rv}
    for example, module in zip((text for text in EXAMPLES if "train_iris" in text), trainers, strict=True):
        exec(example, names)
        made = module.IRISReplayBuffer(size=10, obs_shape=(3, 8, 8), action_size=4, seq_len=5, batch_size=16)
        assert type(made) is rv.IRISReplayBuffer
        assert module.IRISReplayBuffer.keywords == {"seed": 42}


def test_nothing_is_left_out():
    """Every method and every keyword that theirs have not is on the page, and the README leads there."""
    theirs = {"add", "sample_sequence", "sample_single", "sample_with_burn_in", "clear", "get_arrays"}
    for kind in (rv.IRISReplayBuffer, rv.IRISOnPolicyBuffer):
        for name, member in vars(kind).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, classmethod)):
                assert name in theirs or f"`{name}" in PAGE or f".{name}(" in PAGE, name
    for name in (
        "truncated=",
        "final_obs=",
        "seed=",
        "path=",
        "max_steps",
        "NotEnoughData",
        "uint8",
        "pickled",
    ):
        assert name in PAGE, name
    assert "docs/drop-in.md" in (ROOT / "README.md").read_text()
