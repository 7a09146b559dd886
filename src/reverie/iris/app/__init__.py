"""What a person starts and sees: commands, pictures, the demonstrations."""

from reverie.iris.app.commands import dream_run, evaluate_run, train
from reverie.iris.app.demo import run_demo
from reverie.iris.app.learn import run_learn

__all__ = ["dream_run", "evaluate_run", "run_demo", "run_learn", "train"]
