"""A lock on a file: one process at a time may hold it.

It is a lock of the operating system: it ends with its process, however that ends, so there is no
stale lock to clear away. What the file says (pid, command, start) is for people only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path

_POLL_SECONDS = 0.1

# The locked byte lies far behind the text: on Windows a locked byte cannot be read by others.
_LOCKED_BYTE = 1 << 30

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        # flock, not fcntl.lockf: a POSIX record lock is lost as soon as this process closes any
        # other descriptor of the file, and it does not keep two threads apart.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class LockHeld(Exception):
    """Another process holds the lock; the message names it."""


def take_lock(path: Path, wait: bool | float = False) -> int:
    """Lock the file `path`, made if it is not there.

    Args:
        wait: True waits for as long as it takes, a number for so many seconds, False not at all.
    Returns:
        A descriptor; closing it gives the lock back. The file stays: whoever deletes a lock file
        can delete the one that somebody else has just locked.
    Raises:
        LockHeld: another process holds it.
        OSError: the file cannot be made, a full disk, a file system without locks.
    """
    deadline = float("inf") if wait is True else time.monotonic() + float(wait)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise LockHeld(_holder(path))
            time.sleep(_POLL_SECONDS)
        _sign(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sign(descriptor: int) -> None:
    words = {
        "pid": os.getpid(),
        "command": " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])[:400],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(words).encode())


def _holder(path: Path) -> str:
    try:
        words = json.loads(path.read_bytes())
        return f"pid {words['pid']}: {words['command']}, since {words['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which has not said its name yet"
