"""Applications: what a person starts, and what it shows and leaves behind.

There are the commands on runs (train, eval, dream), the demonstration, and the proof that an agent learns. They need
rich, Pillow and matplotlib besides PyTorch. No other room of IRIS imports this one.
"""

from reverie.iris.app.commands import diagnose_run, dream_run, evaluate_run, train
from reverie.iris.app.demo import run_demo
from reverie.iris.app.learn import run_learn
from reverie.iris.app.page import report_run

__all__ = ["diagnose_run", "dream_run", "evaluate_run", "report_run", "run_demo", "run_learn", "train"]
