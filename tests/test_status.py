"""`status` beside a program that works in the library's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from store_kit import Store

from clipsearch.library import Library


def test_files_that_vanish_while_they_are_counted_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).catalog.close()
    before = Library.open(tmp_path).status().size_bytes
    early, late = tmp_path / "early-journal", tmp_path / "late-journal"
    for journal in (early, late):
        journal.write_bytes(b"x")
    stat = os.stat

    def vanishing(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path) == str(early):
            early.unlink(missing_ok=True)
        found = stat(path, *arguments, **options)
        if str(path) == str(late):
            late.unlink()
        return found

    monkeypatch.setattr(os, "stat", vanishing)
    assert before <= Library.open(tmp_path).status().size_bytes <= before + 2
