"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"], help_behavior_hint="")]
Json = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Force = Annotated[bool, tyro.conf.arg(aliases=["-f"], help_behavior_hint="")]
Device = Annotated[
    str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: an accelerator if there is one)")
]
Lossy = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: none is accepted)")
]
