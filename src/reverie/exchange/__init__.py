"""Other people's files: data sets of other libraries, read into a buffer and written from one.

A format is one class in one module of this room; it knows episodes and its files, and no buffer. It promises:

- What is read is what the file holds: both flags of an end, final observations, metadata, names.
- Nothing is lost in silence. What cannot be held is listed, and what would change values is refused unless the caller
  has named it.
- Memory stays within a few episodes, however large the data set is, where the format allows to read it so.
"""

from reverie.exchange.digests import checksums
from reverie.exchange.format import Format, Incoming, Outgoing
from reverie.exchange.transfer import NotHeld, export_to, formats, import_from, register

__all__ = [
    "Format",
    "Incoming",
    "NotHeld",
    "Outgoing",
    "checksums",
    "export_to",
    "formats",
    "import_from",
    "register",
]
