"""docs/feeds.md says what becomes of each thing in another process: every cell of its table is tried."""

import json
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/feeds.md").read_text()
NAMES = {
    "a `ReplayBuffer` without a file": "memory",
    "one that writes to a file": "writer",
    'one that writes to a file, with `residency="disk"`': "disk",
    'a reader: `reverie.open(path, mode="r")`': "reader",
    "an `IRISReplayBuffer`": "IRISReplayBuffer",
    "an `IRISOnPolicyBuffer`": "IRISOnPolicyBuffer",
    "a feed": "feed",
    "a `DeviceMirror`": "DeviceMirror",
    "a sampler": "sampler",
    "a `SequenceDataset` of a path, in a worker": "SequenceDataset of a path",
    "a `SequenceDataset` of a buffer, in a worker": "SequenceDataset of a buffer",
}
COLUMNS = (
    ("fork, draws", "fork"),
    ("fork, changes",),
    ("spawn", "forkserver", "pickle"),
    ("copy", "deepcopy"),
)


def test_the_table_of_other_processes_is_true(tmp_path):
    """Each thing, forked, sent, pickled and copied, does what the table says; no child hangs or draws as another."""
    table = PAGE.partition("| | forked: drawing |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert [row[0] for row in rows] == list(NAMES)
    script = Path(__file__).parents[1] / "support/ways.py"
    # A process of its own: to fork one in which other tests have started threads is asking for trouble.
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    became = json.loads(done.stdout)
    found = []
    for name, *_ in rows:
        ways = became.pop(NAMES[name])
        cells = [{ways.pop(way) for way in column if way in ways} for column in COLUMNS]
        assert not ways
        assert all(len(cell) <= 1 for cell in cells), (name, cells)
        found.append([name, *("".join(cell) for cell in cells)])
    assert not became
    assert found == rows


def test_every_word_of_the_table_is_explained():
    """What stands in a cell has a line below the table."""
    words = set(re.findall(r"- \*\*(.+?)\*\*:", PAGE.partition("## Other processes")[2]))
    assert words == {"as it was", "follows", "for itself", "refused"}
