"""What a command may load: heavy libraries cost the time that a first answer should take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

HEAVY = {"torch", "torchvision", "open_clip", "timm", "faiss", "sqlalchemy", "openvino"}


def loaded_by(script: str) -> set[str]:
    """The top-level modules that are loaded when a script has run."""
    result = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in result.stderr.split("\n")[-2].split()}


@pytest.mark.parametrize(
    "script",
    [
        "import clipsearch",
        "from clipsearch.cli.run import run; run(['--help'])",
        "from clipsearch.cli.run import run; run(['query', '--help'])",
    ],
)
def test_help_loads_nothing_heavy(script: str) -> None:
    loaded = loaded_by(script)
    assert not loaded & (HEAVY | {"numpy", "PIL"})


def test_a_text_query_loads_neither_torch_nor_open_clip_nor_sqlalchemy(
    cli: Cli, photo_folder: Path
) -> None:
    cli("index", photo_folder)
    loaded = loaded_by("from clipsearch.cli.run import run; assert run(['query', 'sea']) == 0")
    assert not loaded & (HEAVY | {"PIL", "rich", "safetensors", "ftfy"})


def test_an_index_run_with_pocket_loads_no_torch(photo_folder: Path) -> None:
    loaded = loaded_by(
        f"from clipsearch.cli.run import run; assert run(['index', {str(photo_folder)!r}]) == 0"
    )
    assert not loaded & {"torch", "torchvision", "open_clip", "timm"}


def test_the_public_names_are_complete() -> None:
    import clipsearch

    assert {name: getattr(clipsearch, name) is not None for name in clipsearch.__all__} == {
        "ClipsearchError": True,
        "Hit": True,
        "IndexReport": True,
        "Library": True,
        "__version__": True,
        "evaluate_retrieval": True,
        "finetune": True,
        "load_encoder": True,
    }
