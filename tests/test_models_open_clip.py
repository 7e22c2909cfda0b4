"""open_clip can be imported beside a torchvision whose operators load, and beside one without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = """
import sys
from clipsearch.errors import ModelError
from clipsearch.models import torchvision_shim
"""

# A torchvision that declares its operators, as one that was built for the installed torch does.
WORKING = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.impl("nms", lambda dets, scores, iou_threshold: scores.argsort(descending=True), "CPU")
"""

# What torchvision does when its compiled operators were not loaded.
WITHOUT_OPERATORS = """
import torch
import torchvision.part

@torch.library.register_fake("torchvision::nms")
def fake(dets, scores, iou_threshold):
    return scores
"""


def fake_torchvision(folder: Path, code: str) -> dict[str, str]:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    (package / "part.py").write_text("")
    path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parent.parent)])
    return os.environ | {"PYTHONPATH": path}


def run(script: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHIM + script], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_working_operators_are_left_alone(tmp_path: Path):
    run(
        """
torchvision_shim.import_torchvision()
assert not torchvision_shim._declared
import torch
order = torch.ops.torchvision.nms(torch.zeros(3, 4), torch.tensor([1.0, 3.0, 2.0]), 0.5)
assert order.tolist() == [1, 2, 0]
""",
        fake_torchvision(tmp_path, WORKING),
    )


def test_missing_operators_are_declared_and_the_import_tried_again(tmp_path: Path):
    run(
        """
module = torchvision_shim.import_torchvision()
assert torchvision_shim._declared
assert sys.modules["torchvision"] is module
import torch
assert torch.ops.torchvision.nms.default._schema.arguments[2].name == "iou_threshold"
""",
        fake_torchvision(tmp_path, WITHOUT_OPERATORS),
    )


@pytest.mark.parametrize("code", ["raise RuntimeError('no CUDA')", "import absent_module"])
def test_any_other_failure_is_told_not_hidden(tmp_path: Path, code: str):
    run(
        """
try:
    torchvision_shim.import_open_clip()
except ModelError as error:
    assert "cannot be imported" in str(error), error
    assert "reinstall" in error.hint
else:
    raise AssertionError("nothing was raised")
assert not torchvision_shim._declared
""",
        fake_torchvision(tmp_path, code),
    )


def test_open_clip_works_beside_the_torchvision_that_is_installed():
    run(
        """
open_clip = torchvision_shim.import_open_clip()
assert open_clip.list_models()
assert torchvision_shim.import_open_clip() is open_clip
""",
        dict(os.environ),
    )
