"""The reverie command."""

from reverie.cli.main import main

__all__ = ["main"]
