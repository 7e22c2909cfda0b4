"""numpy's threads during a query: one, and as many as before when it is answered."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from clipsearch.library import querying, quiet_blas


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """numpy as a program starts it that says nothing of threads."""
    quiet_blas._controller.cache_clear()  # other tests bring further libraries of the kind along
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    np.ones((64, 64)) @ np.ones((64, 64))
    before = blas_threads()
    if max(before) < 2:
        pytest.skip("one core")
    return before


def test_queries_at_the_same_time_leave_the_threads_as_they_were(many_threads: set[int]) -> None:
    begun, end = threading.Event(), threading.Event()

    def user() -> None:
        with quiet_blas.one_thread():
            begun.set()
            end.wait()

    other = threading.Thread(target=user)
    with quiet_blas.one_thread():
        assert blas_threads() == {1}
        other.start()
        begun.wait()
    end.set()
    other.join()
    assert blas_threads() == many_threads


def test_the_threads_come_back_after_an_error(many_threads: set[int]) -> None:
    with pytest.raises(RuntimeError), quiet_blas.one_thread():
        raise RuntimeError
    assert blas_threads() == many_threads


def test_a_query_is_answered_with_one_thread(
    many_threads: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    monkeypatch.setattr(querying.Query, "_answer", lambda *_: seen.append(blas_threads()))
    asked: Any = object.__new__(querying.Query)
    asked.answer(None)
    assert seen == [{1}]
    assert blas_threads() == many_threads
