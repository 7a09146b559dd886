"""Print the figures of the house, with the aim beside each."""

from __future__ import annotations

from benchmarks.house.figures import SOURCE, depths, paths, show, sizes

if __name__ == "__main__":
    print(SOURCE)
    print(show([*sizes(), *depths(), *paths()]))
