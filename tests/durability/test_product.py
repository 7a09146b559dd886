"""Every operation with every fault in every state and home: it has happened or it has not, in memory and in the file."""

import pytest
from product import cells, told, try_cells
from recorder import library

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(library() is None, reason="wanted the SQLite library within reach of ctypes"),
]


@pytest.mark.parametrize("seed", range(8))
def test_an_operation_has_happened_or_has_not(seed):
    """Of 250 cells of the product, memory and file are as before or as after, go on, and open again."""
    tried, broken = try_cells(cells(seed), 250)
    assert tried == 250
    assert not broken, told(broken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_share_of_the_whole_product_holds(seed):
    """Of 2,500 more cells, drawn by another seed, none is broken."""
    tried, broken = try_cells(cells(100 + seed), 2500)
    assert tried == 2500
    assert not broken, told(broken)
