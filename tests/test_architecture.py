"""The import table of the design, checked from the imports themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "clipsearch"

# room: (rooms of clipsearch it may use, third parties at import time, third parties inside
# functions). Every room may use errors and records.
ROOMS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "errors": (set(), set(), set()),
    "records": (set(), {"numpy"}, set()),
    "locking": (set(), set(), set()),
    "paths": (set(), set(), set()),
    "photos": (set(), {"numpy", "PIL", "pathspec"}, {"pillow_heif", "rawpy"}),
    "models": (
        {"paths"},
        {"numpy", "PIL"},
        {
            *("torch", "torchvision", "open_clip", "timm", "openvino", "safetensors", "ftfy"),
            *("huggingface_hub", "platformdirs", "transformers", "regex"),
        },
    ),
    "store": ({"locking", "paths"}, {"numpy"}, {"sqlalchemy", "faiss"}),
    "search": ({"store"}, {"numpy"}, set()),
    "train": (
        {"photos", "models", "locking", "paths"},
        {"numpy"},
        {"torch", "open_clip", "PIL", "safetensors", "tensorboard", "matplotlib", "platformdirs"},
    ),
    "library": (
        {"photos", "models", "store", "search", "train", "paths"},
        {"numpy"},
        {"platformdirs", "threadpoolctl"},
    ),
    "cli": ({"library", "paths"}, {"typer"}, {"rich"}),
    "__init__": ({"library", "models", "train"}, set(), set()),
    "__main__": ({"cli"}, set(), set()),
}
ALWAYS = {"errors", "records"}


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, dotted, and whether it is imported when the file is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lazy: set[ast.AST] = set()
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy.update(ast.walk(node))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing_only.update(child for part in node.body for child in ast.walk(part))
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node not in lazy
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            if node.module == "clipsearch":
                for name in node.names:
                    yield f"clipsearch.{name.name}", node not in lazy
            else:
                yield node.module or "", node not in lazy


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_what_the_table_lets_it(file: Path) -> None:
    room = room_of(file)
    rooms, at_import, inside = ROOMS[room]
    for module, when_imported in imports(file):
        top, *rest = module.split(".")
        if top == "clipsearch":
            target = rest[0] if rest else "__init__"
            if target in ALWAYS or target == room or (room == "cli" and target == "__version__"):
                continue
            assert target in rooms, f"{room} may not import clipsearch.{target}"
        elif top not in sys.stdlib_module_names:
            allowed = at_import if when_imported else at_import | inside
            assert top in allowed, f"{room} may not import {top}" + (
                " when it is imported" if when_imported and top in inside else ""
            )


def test_every_room_is_in_the_table() -> None:
    assert {room_of(file) for file in FILES} == set(ROOMS)
