"""docs/iris.md: its example runs, and it names every weight."""

import re
from pathlib import Path

from reverie.iris import Agent, presets

PAGE = (Path(__file__).parents[2] / "docs/iris.md").read_text()
NAMES = PAGE.partition("## Names of the weights")[2]


def test_the_example_runs():
    """The Python block runs by itself."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "iris.md", "exec"), {"__name__": "example"})


def test_every_weight_is_named_and_every_name_is_a_weight():
    """The table of names and the state dict of the paper's agent cover each other."""
    rows = [
        line for line in NAMES.splitlines() if re.match(r"\| `(tokenizer|world_model|actor_critic)\.", line)
    ]
    told = {name for row in rows for name in re.findall(r"`([\w.{}]+\.[\w.{}]+)`", row)}
    patterns = {name: re.compile(re.escape(name).replace(r"\{n\}", r"\d+")) for name in told}
    names = list(Agent(presets["paper"], 4).state_dict())
    for name in names:
        assert any(pattern.fullmatch(name) for pattern in patterns.values()), name
    for told_name, pattern in patterns.items():
        assert any(pattern.fullmatch(name) for name in names), told_name
