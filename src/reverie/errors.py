"""What can go wrong, one class each; every class is also the built-in a caller would catch anyway."""


class ReplayError(Exception):
    """The parent of every error that reverie raises on purpose."""


class SpecMismatch(ReplayError, ValueError):
    """A step or a batch does not fit the spec; nothing was stored."""


class BadSetting(ReplayError, ValueError):
    """An argument that configures or asks for something cannot be honoured."""


class NotEnoughData(ReplayError, ValueError):
    """No window of the asked kind exists yet."""


class NoWeight(NotEnoughData):
    """There are windows of the asked kind, and the sampler gives every one of them the weight 0."""


class BufferFull(ReplayError, OverflowError):
    """A store with a hard limit was asked to hold one step more."""


class BufferClosed(ReplayError, RuntimeError):
    """The buffer was closed; it takes and gives nothing any more."""


class WrongProcess(ReplayError, RuntimeError, TypeError):
    """Something of one process was pickled, or used in a fork of it where that cannot be right."""


class TooLarge(ReplayError, MemoryError):
    """The asked capacity cannot fit into this machine's memory."""


class FileError(ReplayError, OSError):
    """A replay file cannot be opened, read or written: missing, taken, damaged, full, or not such a file."""


class FileMissing(FileError, FileNotFoundError):
    """There is no replay file at this path."""


class FileTaken(FileError, FileExistsError):
    """There is something at this path already; nothing is ever overwritten."""
