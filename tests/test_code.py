"""The checks on the code itself, so that one command runs everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "check",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", "--strict", "clipsearch"),
    ],
    ids=["lint", "format", "types"],
)
def test_the_code_passes(check: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
