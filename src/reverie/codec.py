"""How a run of one column becomes bytes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PLAIN, ZSTD = b"\x00", b"\x01"  # the first byte of a packed run says how the rest is to be read
# Level 3 packs recorded Atari a little better than 1 and unpacks faster; measured by `make bench`.
LEVEL = 3


class Codec:
    """Packs runs with zstd, or stores them plain where that does not pay. Not to be shared between threads."""

    __slots__ = ("_compressor", "_decompressor")

    def __init__(self) -> None:
        import zstandard  # here, so that `import reverie` needs NumPy only

        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def pack(self, run: npt.NDArray[Any]) -> bytes:
        """Return a C-contiguous array as bytes, never more than one byte longer than it is."""
        packed = self._compressor.compress(run.data)
        return ZSTD + packed if len(packed) < run.nbytes else PLAIN + run.tobytes()

    def unpack(self, packed: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return the array that `pack` took, read-only."""
        body = memoryview(packed)[1:]
        if packed[:1] == ZSTD:
            return np.frombuffer(self._decompressor.decompress(body), dtype).reshape(shape)
        return np.frombuffer(body, dtype).reshape(shape)
