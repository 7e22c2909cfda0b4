"""One thread for numpy's products while a single query is answered.

OpenBLAS's threads go on spinning for some 30 ms after a product, in case there is another; FAISS's
own threads then wait for a core. On two cores that made a warm query at a million photos take
three times as long, and a query's products gain nothing from a second thread: they are small, or
wait for memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_owned = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the process's number of threads down.

    Of queries at the same time the first alone does, and gives back what it found: a second one
    would find, and leave behind, the first one's single thread.
    """
    # The command line starts itself with one.
    if os.environ.get("OPENBLAS_NUM_THREADS") == "1" or not _owned.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _owned.release()


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
