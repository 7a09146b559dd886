"""The figures of the house can be measured, count what they say, and keep the limits that hold today."""

import importlib
import sqlite3
import sys
from pathlib import Path

import pytest
from benchmarks.house.calls import Watch
from benchmarks.house.figures import Figure, depths, paths, show, sizes
from benchmarks.house.imports import imports_between_rooms, longest_chain
from benchmarks.house.sizes import Part, classes, functions, largest, median_lines, modules, top

# Figures that are within their aim. Add a name as soon as its figure has come down to its aim.
HELD = {
    "modules at the top",
    "rooms at the top",
    "largest module, lines",
    "largest class, lines",
    "median function, lines",
    "add with a path: frames above SQLite",
    'open, "r+": rooms',
    'open, "r": rooms',
}

FIGURES = [*sizes(), *depths(), *paths()]


def test_every_figure_can_be_measured():
    """Each has a name of its own and a value, and the table has a line for it."""
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert all(figure.value > 0 or figure.name.endswith("beside the rooms") for figure in FIGURES)
    assert len(show(FIGURES).splitlines()) == 1 + len(FIGURES)


@pytest.mark.parametrize("name", sorted(HELD))
def test_the_limits_hold(name):
    """What was brought down to its aim stays there."""
    [figure] = [figure for figure in FIGURES if figure.name == name]
    assert figure.value <= figure.aim, figure.where


def test_the_table_by_hand():
    """A figure without an aim shows none."""
    lines = show([Figure("rooms", 3, 12, "a b c"), Figure("crossings", 1234)]).splitlines()
    assert [line.split() for line in lines] == [
        ["now", "aim"],
        ["rooms", "3", "12", "a", "b", "c"],
        ["crossings", "1,234"],
    ]


# --- sizes ---------------------------------------------------------------------------------------------------------

MODULE = '''"""One class, three functions."""

import functools


class Pair:
    """Two lines are its method's."""

    def first(self):
        return 1


@functools.cache
def outer():
    def inner():
        return 2

    return inner
'''


@pytest.fixture
def source(tmp_path):
    """Return a folder with two modules at its top, one room, and one folder that is no room."""
    for name, text in {
        "__init__.py": "",
        "pair.py": MODULE,
        "room/__init__.py": "",
        "room/inside.py": "x = 1\n",
        "data/notes.txt": "no code\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_sizes_by_hand(source):
    """Decorators count, and nested functions are functions."""
    assert top(source) == (["__init__", "pair"], ["room"])
    assert largest(modules(source)) == Part("pair.py", 18)
    assert classes(source) == [Part("pair.py: Pair", 5)]
    assert {part.name.split()[-1]: part.lines for part in functions(source)} == {
        "first": 2,
        "outer": 6,
        "inner": 2,
    }
    assert median_lines(functions(source)) == 2


# --- imports -------------------------------------------------------------------------------------------------------


def test_the_longest_chain_by_hand():
    """The chain goes the long way round, and a room is counted once."""
    imports = {
        "r": {"r.top"},
        "r.top": {"r.index", "r.words"},
        "r.index": {"r.index.episodes"},
        "r.index.episodes": {"r.words"},
        "r.words": set(),
    }
    assert longest_chain(imports) == ["r", "r.top", "r.index", "r.index.episodes", "r.words"]
    assert longest_chain(imports_between_rooms(imports)) == ["r", "r.top", "r.index", "r.words"]


def test_a_circle_has_no_longest_chain():
    """Imports that run in a circle are named."""
    with pytest.raises(ValueError, match="in a circle: b -> c -> b"):
        longest_chain({"a": {"b"}, "b": {"c"}, "c": {"b"}})


# --- calls ---------------------------------------------------------------------------------------------------------

FACE = """
from house_of_test.inside import keeper, words

def put(connection):
    words.check()
    keeper.put(connection)

def fails():
    try:
        with keeper.turn():
            raise ValueError
    except ValueError:
        words.check()
"""
KEEPER = """
from contextlib import contextmanager

def put(connection):
    write(connection)

def write(connection):
    connection.execute("SELECT 1")

@contextmanager
def turn():
    yield
"""
WORDS = """
def check():
    pass
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Yield the face of a package whose calls are known, and its folder."""
    folder = tmp_path / "house_of_test"
    (folder / "inside").mkdir(parents=True)
    texts = {
        "__init__": "",
        "face": FACE,
        "inside/__init__": "",
        "inside/keeper": KEEPER,
        "inside/words": WORDS,
    }
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("house_of_test.face"), folder
    for name in [name for name in sys.modules if name.startswith("house_of_test")]:
        del sys.modules[name]


def test_a_known_chain_of_calls(house):
    """The face calls words and comes back, calls the keeper and comes back; three frames lie above SQLite."""
    face, folder = house
    connection = sqlite3.connect(":memory:")
    with Watch(folder) as watch:
        face.put(connection)
    connection.close()
    assert watch.files == {"face.py", "inside/keeper.py", "inside/words.py"}
    assert (watch.rooms, watch.words) == ({"inside"}, {"face"})
    assert watch.crossings == 4
    assert watch.frames == 3


def test_an_exception_through_a_generator_does_not_confuse(house):
    """A context manager that an exception unwinds leaves the count of what follows as it is."""
    face, folder = house
    connection = sqlite3.connect(":memory:")
    with Watch(folder) as watch:
        face.fails()
        before = watch.crossings
        face.put(connection)
    connection.close()
    assert watch.crossings == before + 4
    assert watch.frames == 3


def test_what_watched_before_watches_on():
    """Another profile function is put back."""

    def before(*_):
        pass

    kept = sys.getprofile()
    sys.setprofile(before)
    try:
        with Watch(Path(__file__).parent):
            pass
        assert sys.getprofile() is before
    finally:
        sys.setprofile(kept)
