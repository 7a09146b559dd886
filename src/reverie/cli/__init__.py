"""The `reverie` command. Subcommands import what they need when they run: `--help` is quick and needs no framework."""

from reverie.cli.main import main

__all__ = ["main"]
