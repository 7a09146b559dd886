"""Child processes that can be killed at any instant: forks of this one, which has everything imported."""

import mmap
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

import numpy as np

PATIENCE = 200_000_000  # looks at a child before it counts as stuck: far more than any machine needs


class Child:
    """A fork that runs `work` and says nothing but what went wrong.

    Args:
        work: what it does; its exit status is 0 if that returns.
        limit_s: seconds of processor time after which the system kills it.
        patience_s: seconds after which it counts as hanging and is killed; None means ten times as many.
    """

    def __init__(self, work: Callable[[], None], limit_s: int = 120, patience_s: int | None = None) -> None:
        self._said, said = os.pipe()
        self.status: int | None = None
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # other threads have nothing to do with the child
            self.pid = os.fork()
        if self.pid:
            os.close(said)
            return
        status = 1
        try:
            import resource

            os.close(self._said)
            sys.settrace(None)
            signal.alarm(patience_s or 10 * limit_s)  # what waits for ever takes no processor time
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
            work()
            status = 0
        except BaseException:
            os.write(said, traceback.format_exc().encode()[-30_000:])
        finally:
            os._exit(status)

    def ended(self) -> bool:
        """Whether it has come to its end by now."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def kill(self) -> None:
        """Kill it as `kill -9` does, if it still runs; raise what it said if it had failed."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
        self.wait((0, -signal.SIGKILL))

    def wait(self, wanted: tuple[int, ...] = (0,)) -> int:
        """Wait for its end, and raise what it said unless its exit code is a wanted one."""
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)
        os.set_blocking(self._said, False)  # a fork of the child may have the other end open still
        try:
            said = os.read(self._said, 65536)
        except BlockingIOError:
            said = b""
        os.close(self._said)
        code = os.waitstatus_to_exitcode(self.status)
        if code not in wanted:
            raise AssertionError(f"the child ended with {code}:\n{said.decode()}")
        return code


def shared(*shape: int) -> np.ndarray:
    """Integers that a child and its parent both see; what a killed child wrote stays."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, 8 * size), np.int64, size).reshape(shape)
