"""Global options may stand before or after the command they belong to."""

from __future__ import annotations

import pytest

from clipsearch.cli.settings import hoist

VALUES = frozenset({"--not", "--also", "-k", "--library", "--threads"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("query --library /a sea", "--library /a query sea"),
        ("query sea -q --threads=2", "-q --threads=2 query sea"),
        ("--library /a query sea", "--library /a query sea"),
        ("query --not -q sea", "query --not -q sea"),
        ("query -- --library sea", "query -- --library sea"),
        ("query sea --library", "--library query sea"),
    ],
)
def test_global_options_are_brought_to_the_front(line: str, expected: str) -> None:
    assert hoist(line.split(), VALUES) == expected.split()
