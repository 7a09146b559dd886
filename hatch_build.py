"""Compiles the C kernel into the wheel, where there is a C compiler; elsewhere the wheel is pure Python."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/reverie/index/_native.c")
MODULE = "_native.abi3.so"
# Sums have to be those of NumPy bit for bit: a product and a sum must not become one operation.
FLAGS = ["-std=c11", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra"]


class KernelHook(BuildHookInterface):
    """Compiles for wheels, and for editable installs into the source itself; REVERIE_PURE=1 leaves it out."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling of what came of it."""
        if os.environ.get("REVERIE_PURE") == "1" or sys.platform == "win32":
            return
        root = Path(self.root)
        if version == "editable":
            compile_kernel(root, (root / SOURCE).with_name(MODULE), self.app.display_warning)
            return
        self._folder = tempfile.TemporaryDirectory()
        module = Path(self._folder.name) / MODULE
        if compile_kernel(root, module, self.app.display_warning):
            build_data["force_include"][str(module)] = f"reverie/index/{MODULE}"
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for a wheel that is there now."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()


def compile_kernel(root: Path, module: Path, warn: Any) -> bool:
    """Compile the kernel to `module`; return whether that went well, and warn where it did not."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    more = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    made = module.with_suffix(f".{os.getpid()}")
    command = [
        *compiler,
        *FLAGS,
        *more,
        f"-I{sysconfig.get_path('include')}",
        str(root / SOURCE),
        "-o",
        str(made),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        warn(f"reverie: no C compiler ({error}); NumPy does the kernel's work")
        return False
    if done.returncode:
        warn(f"reverie: the C kernel did not compile; NumPy does its work\n{done.stderr}")
        return False
    os.replace(made, module)  # a process that has the old one loaded keeps it
    return True
