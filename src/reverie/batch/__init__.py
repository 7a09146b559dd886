"""What comes back when a buffer is drawn from, and whose it is.

A batch is arrays by name, in NumPy or on a device, and the addresses of its steps. It promises to be its user's own, to
travel by pickle, and that its buffer knows it again.
"""

from reverie.batch.batches import (
    ARRAYS,
    ArrayT,
    Batch,
    Bools,
    Floats,
    Ints,
    RowBatch,
    SequenceBatch,
    check_batch,
    contents,
    from_contents,
    note_origin,
    note_parts,
    note_stride,
    without_fields,
)
from reverie.batch.origin import KEPT, Origin, Origins
from reverie.batch.single import StepBatch

__all__ = [
    "ARRAYS",
    "KEPT",
    "ArrayT",
    "Batch",
    "Bools",
    "Floats",
    "Ints",
    "Origin",
    "Origins",
    "RowBatch",
    "SequenceBatch",
    "StepBatch",
    "check_batch",
    "contents",
    "from_contents",
    "note_origin",
    "note_parts",
    "note_stride",
    "without_fields",
]
