"""Every command that the README shows is run, and what it shows as printed is compared.

A block is left out only if it is marked so: `<!-- needs a hub -->` or `<!-- needs a GPU -->` on the
line before it. `pip`, `python3 -m venv` and `pytest` lines are what made this test run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?P<mark><!--.*?-->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
SET_UP = ("python3 -m venv", "pip install", "pytest", "git clone")


def blocks(kind: str) -> list[tuple[str, str]]:
    return [
        (match["mark"] or "", match["text"])
        for match in BLOCK.finditer(README)
        if match["kind"] == kind
    ]


def test_the_first_two_blocks_set_up_everything() -> None:
    (_, first), (_, second), *_ = blocks("bash")
    assert "pip install ." in first
    assert 'clipsearch query "sunset over ocean"' in first
    assert "pip install" in second
    assert "dev" in second
    assert second.rstrip().endswith("pytest")


@pytest.mark.parametrize(
    "script",
    [text for mark, text in blocks("bash") if "needs" not in mark],
    ids=lambda text: text.strip().splitlines()[-1][:60],
)
def test_every_shown_command_runs(script: str, tmp_path: Path) -> None:
    lines = [line for line in script.splitlines() if not line.startswith(SET_UP)]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    for name in ("benchmarks", "data", "clipsearch"):
        (tmp_path / name).symlink_to(ROOT / name)
    if not any("index data/album" in line for line in lines):
        lines.insert(0, "clipsearch -q index data/album")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("script", [text for _, text in blocks("python")])
def test_every_shown_program_runs(script: str, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize(
    "text",
    [text for _, text in blocks("text") if text.startswith("$ ")],
    ids=lambda text: text.splitlines()[0],
)
def test_shown_output_is_what_is_printed(text: str, tmp_path: Path) -> None:
    """A `text` block that starts with '$ COMMAND' shows the command's own output."""
    command, _, shown = text.removeprefix("$ ").partition("\n")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
    }
    (tmp_path / "data").symlink_to(ROOT / "data")
    subprocess.run(
        ["bash", "-c", "clipsearch -q index data/album"], cwd=tmp_path, env=environment, check=True
    )
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    printed = result.stdout.replace(str(tmp_path), "/home/me/clipsearch")
    assert printed.strip() == shown.strip()


def test_every_command_is_in_the_readme() -> None:
    for command in (
        *("index", "query", "finetune", "evaluate", "models", "status", "problems"),
        *("check", "remove", "compact"),
    ):
        assert f"clipsearch {command}" in README
