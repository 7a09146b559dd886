"""Ctrl-C at any line of a write: file and buffer stay alike, whatever comes next."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from helpers import interrupted
from story import Story, check, heads, read_all, spec
from test_copies import add
from test_reopen import RESIDENCIES

import reverie as rv

INNER = tuple(os.path.join(os.path.dirname(rv.__file__), name) for name in
              ("buffer.py", "journal.py", "database.py", "file.py", "episodes.py"))  # fmt: skip


# What tidies up after an interrupt is not interrupted once more.
SPARED = ("_take_back", "_derive_anew", "roll_back", "_mend")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["add", "begin", "seal", "end", "cut", "flush"])
@pytest.mark.parametrize("durability", ["step"])
def test_an_interrupted_write_leaves_file_and_buffer_alike(durability, what, tmp_path):
    """Interrupt a write at many lines; go on in another stream, get killed or close: the file has what memory had."""
    residency = random.Random(what).choice(RESIDENCIES)

    def go_on(line: int, ending: str) -> bool:
        path = tmp_path / f"{line}-{ending}.replay"
        story = Story(1, 2, 128, rarity=10)
        steps = {"add": 6, "begin": 6, "end": 6, "seal": 32}.get(what, 6)

        def fates(stream, ids):
            ends = {"begin": (5,), "end": (6,)}.get(what, (3,))
            return np.where(np.isin(ids, ends), 1, 0)

        story.fates = fates
        buffer = rv.ReplayBuffer(spec(), 128, streams=2, seed=0, residency=residency, path=path,
                                 durability=durability)  # fmt: skip
        for step in range(steps):
            for stream in range(2):
                if stream == 0 or step < 4:
                    buffer.add(**story.step(stream, step))
        call = {"cut": lambda: buffer.cut(0), "flush": buffer.flush}.get(
            what, lambda: buffer.add(**story.step(0, steps)))  # fmt: skip
        came = interrupted(call, line, INNER, SPARED)
        now = heads(buffer)
        if what == "cut" and buffer.episodes["ended"][buffer.episodes["stream"] == 0][-1] == "cut":
            story.torn = {0: {now[0]}}
        # Nothing is written where there is no episode to be cut.
        quiet = ending == "at once" or (ending == "cut" and buffer._index.open_row[0] < 0)
        if ending == "other":
            buffer.add(**story.step(1, 4))  # begins an episode
        elif ending == "cut":
            buffer.cut(0)
            if fates(0, now[0] - 1) == 0:
                story.torn.setdefault(0, set()).add(now[0])
        elif ending == "close":
            buffer.close()
        check(rv.open(path, mode="r"), story) if ending == "close" else check(buffer, story)
        now = heads(buffer)
        last = Path(f"{path}.killed")  # what a kill at this moment would leave
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                Path(f"{last}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
        with rv.open(last, mode="r") as left:
            got = heads(left)
            if durability == "step" or ending == "close":
                # Of what was interrupted, the file may have one step more than memory.
                extra = [one - two for one, two in zip(got, now, strict=True)]
                assert extra in ([0, 0], [1, 0] if quiet else [0, 0]), (extra, line)
            if got == now and durability == "step" and not (what == "cut" and quiet):
                check(left, story)
            read_all(left)
        if ending != "close":
            for _ in range(40):
                add(buffer, story, 0)
            check(buffer, story)
            buffer.close()
            with rv.open(path, residency) as again:
                check(again, story)
                read_all(again)
        return came

    for ending in ("at once", "other", "cut", "close"):
        line, came = 1, True
        while came:
            came = go_on(line, ending)
            line += 37
        assert line > 10
