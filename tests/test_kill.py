"""Killed at any moment, the library is whole: a hundred kills, some while it switches models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "kill.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks its runs")
def test_a_hundred_kills_lose_and_mix_up_nothing(other_model: Path) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "100", "--seed", "7", "--other-model", other_model],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["kills"] == 100
    assert told["wrong"] == []
