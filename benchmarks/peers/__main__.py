"""Install every peer into an environment of its own, run the same workloads on each, and write the tables.

`make bench-peers` runs `python -m benchmarks.peers`. Cells that are run
again replace those in the JSON. The others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.peers.face import DROP_INS, PEERS, VARIANTS, Variant
from benchmarks.peers.pages import PAGE, put_tables, show_tables
from benchmarks.peers.worker import DROP_IN_WORKLOADS, STORING, WORKLOADS

from reverie.conformance import chi_square_p

ROOT = Path(__file__).parents[2]
BENCH = Path(".bench")
RESULTS = Path("benchmarks/results/peers.json")
# torch goes first and alone: its pinned version decides which of its own dependencies arrive.
TORCH = "torch==2.13.0"
INSTALL: dict[str, list[list[str]]] = {
    "reverie": [[str(ROOT)]],
    # Its compiled trees, which draw by priority, load with the torch that they were built for. On Linux that one brings
    # gigabytes of CUDA.
    "torchrl": [["torch==2.14.1"], ["torchrl==0.14.1"]],
    "torchrl-ray": [[TORCH], ["torchrl==0.14.1", "ray==2.60.0"]],
    "sheeprl": [[TORCH], ["sheeprl==0.8.4"]],
    "flashbax": [["flashbax==0.1.3"]],
    "tianshou": [[TORCH], ["tianshou==2.0.1"]],
    "rllib": [[TORCH], ["ray[rllib]==2.60.0"]],
    "reverb": [["dm-reverb[tensorflow]==0.14.0"]],
    "memmap": [[TORCH], ["memmap-replay-buffer==0.2.3"]],
    "simulusion": [[TORCH], ["simulusion==1.1.0"]],
    "cpprb": [["cpprb==11.0.0"]],
    "sb3": [[TORCH], ["stable-baselines3==2.9.2"]],
}
# What is named in the table of versions, beside Python and NumPy.
DISTRIBUTION = {
    "rllib": "ray",
    "reverb": "dm-reverb",
    "memmap": "memmap-replay-buffer",
    "sb3": "stable-baselines3",
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment."""
    return BENCH / peer / "bin/python"


def install(peer: str, limit_s: float) -> str | None:
    """Make a peer's environment; return why that cannot be done, in pip's words."""
    done = BENCH / peer / ".installed"
    wanted = json.dumps(INSTALL[peer])
    if done.exists() and done.read_text() == wanted:
        return None
    shutil.rmtree(BENCH / peer, ignore_errors=True)
    venv.create(BENCH / peer, with_pip=True)
    for packages in INSTALL[peer]:
        command = [str(python_of(peer)), "-m", "pip", "install", "-q", *packages]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return f"pip took more than {limit_s:.0f} s"
        if run.returncode:
            errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
            return (errors or run.stderr.splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")[
                :200
            ]
    done.write_text(wanted)
    return None


VERSIONS = """
import json, platform, sys
from importlib.metadata import version
print(json.dumps({"version": version(sys.argv[1]), "numpy": version("numpy"), "python": platform.python_version()}))
"""


def versions(peer: str) -> dict[str, str]:
    """Return the versions in a peer's environment."""
    command = [str(python_of(peer)), "-c", VERSIONS, DISTRIBUTION.get(peer, peer)]
    found: dict[str, str] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return found


def memory_of(group: int) -> int:
    """Return the bytes that the processes of a group hold. Pages of files do not count."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) == group:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                total += sum(int(lines.get(key, "0").split()[0]) for key in ("RssAnon", "RssShmem")) * 1024
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return total


def run_one(variant: Variant, workload: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Return what a workload found, in a process with a limit of time and of memory."""
    scratch = (BENCH / f"scratch-{os.getpid()}").absolute()
    shutil.rmtree(scratch, ignore_errors=True)  # a process that was killed leaves its files behind
    scratch.mkdir()
    out = scratch / "out.json"
    given = {
        "rounds": settings.rounds,
        "budget_s": settings.budget,
        "scale": 50 if settings.quick else 1,
        "scratch": str(scratch),
    }
    command = [
        str(python_of(variant.peer).absolute()),
        "-m",
        "benchmarks.peers.worker",
        variant.peer,
        variant.adapter,
        workload,
        str(out),
        json.dumps(given),
    ]
    environment = {
        **os.environ,
        **ONE_THREAD,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "TMPDIR": str(scratch),
    }
    begin = time.monotonic()
    with open(BENCH / f"{variant.adapter}-{variant.peer}-{workload}.log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=ROOT, start_new_session=True
        )
        reason = None
        while process.poll() is None and reason is None:
            time.sleep(0.2)
            if time.monotonic() - begin > settings.limit:
                reason = f"more than {settings.limit:.0f} s"
            elif memory_of(process.pid) > settings.memory * 1e9:
                reason = f"more than {settings.memory:.0f} GB of memory"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: only what this process started
        process.wait()
    if reason is None and not out.exists():
        code = process.returncode
        reason = f"crashed ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"
    found: dict[str, Any] = {"failed": reason} if reason else json.loads(out.read_text())
    shutil.rmtree(scratch, ignore_errors=True)
    return judge(found) if workload == "correctness" else found


def judge(found: dict[str, Any]) -> dict[str, Any]:
    """Replace how often each start was drawn by what follows from it: a p-value and shares."""
    drawn = found.pop("drawn", None)
    if drawn:
        total = sum(drawn) + found["elsewhere"]
        if sum(drawn) >= 5 * len(drawn):  # else chance alone leaves starts out
            share = {(0, number): 1 / len(drawn) for number in range(len(drawn))}
            found["p"] = chi_square_p(
                (where for where, count in zip(share, drawn, strict=True) for _ in range(count)), share
            )
            found["most"] = max(drawn) / (sum(drawn) / len(drawn))
        found["never"] = drawn.count(0) / len(drawn)
        found["elsewhere"] = found["elsewhere"] / max(total, 1)
    return found


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), help=f"some of {', '.join(PEERS)}")
    parser.add_argument(
        "--workloads",
        nargs="*",
        default=[*WORKLOADS, *DROP_IN_WORKLOADS],
        help=f"some of {', '.join([*WORKLOADS, *DROP_IN_WORKLOADS])}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a fiftieth of the steps, to try things; writes nothing"
    )
    parser.add_argument("--skip-install", action="store_true", help="take the environments as they are")
    parser.add_argument("--rounds", type=int, default=60, help="repeats of every call; medians are shown")
    parser.add_argument("--budget", type=float, default=20, help="seconds for the repeats of one cell")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for one cell with all that prepares it"
    )
    parser.add_argument("--memory", type=float, default=12, help="GB that one cell may take")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON to write, or to bring up to date")
    settings = parser.parse_args()
    os.chdir(ROOT)
    BENCH.mkdir(exist_ok=True)
    kept = json.loads(settings.out.read_text()) if settings.out.exists() else {"peers": {}, "cells": {}}
    found = {
        "machine": machine(),
        "peers": kept["peers"],
        "cells": kept["cells"],
        "drop_in": kept.get("drop_in", {}),
        "settings": {"rounds": settings.rounds, "budget": settings.budget},
    }
    for peer in settings.peers:
        reason = None if settings.skip_install else install(peer, 420)
        if reason is None and not python_of(peer).exists():
            reason = "no environment"
        found["peers"][peer] = {"missing": reason} if reason else versions(peer)
    tables = (("cells", VARIANTS, WORKLOADS), ("drop_in", DROP_INS, DROP_IN_WORKLOADS))
    for name, variant, workload in [
        (name, variant, workload)
        for name, variants, workloads in tables
        for variant in variants
        for workload in workloads
        if variant.peer in settings.peers and workload in settings.workloads
    ]:
        if "missing" in found["peers"][variant.peer]:
            continue
        if variant.stores_as and workload in STORING:
            cell: dict[str, Any] = {"cannot": f"as {variant.stores_as}"}
        else:
            cell = run_one(variant, workload, settings)
        found[name].setdefault(variant.name, {})[workload] = cell
        print(f"{variant.name:34} {workload:18} {json.dumps(cell)}", flush=True)
        if not settings.quick:
            settings.out.parent.mkdir(parents=True, exist_ok=True)
            settings.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(show_tables(found)))
    if not settings.quick and settings.out == RESULTS:
        put_tables(found, ROOT / PAGE)


if __name__ == "__main__":
    sys.exit(main())
