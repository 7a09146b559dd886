"""What a verification came to, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from reverie.errors import printable
from reverie.file.replay import ReplayFile
from reverie.file.verify import MOST_FINDING, Audit


class Verdict(NamedTuple):
    """What was found in a replay file.

    Attributes:
        findings: what is wrong, one text for each finding; none if the file is whole.
        checked: how many of each thing were looked at, by name.
        lacks_log: the file was not closed, and its log is missing.
    """

    findings: list[str]
    checked: dict[str, int]
    lacks_log: bool


def verdict_on(path: Path) -> Verdict:
    """Return what is wrong with a replay file, and what was checked; the file is only read.

    Raises:
        FileError: it cannot be opened.
    """
    file = ReplayFile.open(path, "r")
    try:
        audit = Audit(file)
        findings = [printable(finding, MOST_FINDING) for finding in audit.findings()]
        return Verdict(findings, dict(audit.counts), audit.lacks_log())
    finally:
        file.close()
