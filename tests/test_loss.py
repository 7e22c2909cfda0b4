"""The losses against slow, plain arithmetic, and against open_clip's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clipsearch.errors import TrainingDataError, UsageError
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.train.loss import info_nce_loss, positives, rows_loss, siglip_loss


def unit(rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(noise, dim=1)


def plain_info_nce(images, texts, scale, targets) -> float:
    """The definition, one exponential at a time."""
    images, texts, count = images.tolist(), texts.tolist(), len(images)
    logits = [
        [scale * sum(a * b for a, b in zip(i, t, strict=True)) for t in texts] for i in images
    ]

    def one_way(table, wanted) -> float:
        total = 0.0
        for row, marks in zip(table, wanted, strict=True):
            log_sum = math.log(sum(math.exp(value) for value in row))
            total += sum(m / sum(marks) * (log_sum - v) for v, m in zip(row, marks, strict=True))
        return total / count

    def turned(table):
        return [list(column) for column in zip(*table, strict=True)]

    return (one_way(logits, targets) + one_way(turned(logits), turned(targets))) / 2


def test_equals_the_definition_with_one_positive_each() -> None:
    images, texts = unit(7, 5, 1), unit(7, 5, 2)
    expected = plain_info_nce(images, texts, 14.3, np.eye(7).tolist())
    assert info_nce_loss(images, texts, 14.3).item() == pytest.approx(expected, abs=1e-12)


def test_equals_the_definition_with_several_positives() -> None:
    images, texts = unit(6, 5, 1), unit(6, 5, 2)
    targets = positives(torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 3, 4]))
    expected = plain_info_nce(images, texts, 14.3, targets.double().tolist())
    loss = info_nce_loss(images, texts, 14.3, targets=targets)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_equals_open_clip() -> None:
    open_clip = import_open_clip()
    images, texts = unit(32, 16, 1, torch.float32), unit(32, 16, 2, torch.float32)
    scale, bias = torch.tensor(20.0), torch.tensor(-10.0)
    theirs = open_clip.ClipLoss()(images, texts, scale)
    torch.testing.assert_close(info_nce_loss(images, texts, scale), theirs, atol=1e-6, rtol=0)
    theirs = open_clip.loss.SigLipLoss()(images, texts, scale, bias)
    torch.testing.assert_close(siglip_loss(images, texts, scale, bias), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("several", [False, True])
def test_gradients_are_those_of_the_function(several: bool) -> None:
    images = unit(4, 3, 1).requires_grad_()
    texts = unit(4, 3, 2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    same = positives(torch.tensor([0, 0, 1, 2]), torch.arange(4)) if several else None
    assert torch.autograd.gradcheck(
        lambda i, t, s: info_nce_loss(i, t, s, targets=same), (images, texts, scale)
    )
    assert torch.autograd.gradcheck(
        lambda i, t, s, b: siglip_loss(i, t, s, b, targets=same), (images, texts, scale, bias)
    )


def test_the_two_directions_average_to_the_symmetric_loss() -> None:
    images, texts = unit(8, 4, 1), unit(8, 4, 2)
    there = info_nce_loss(images, texts, 10.0, direction="image_to_text")
    back = info_nce_loss(images, texts, 10.0, direction="text_to_image")
    assert there.item() != pytest.approx(back.item())
    torch.testing.assert_close((there + back) / 2, info_nce_loss(images, texts, 10.0))
    with pytest.raises(UsageError, match="sideways"):
        info_nce_loss(images, texts, 10.0, direction="sideways")


def test_log_batch_is_chance_and_separated_pairs_cost_nothing() -> None:
    same = torch.ones(16, 1)
    assert info_nce_loss(same, same, 5.0).item() == pytest.approx(math.log(16), abs=1e-6)
    assert info_nce_loss(torch.eye(16), torch.eye(16), 100.0).item() < 1e-6


def test_blocks_of_rows_add_up_to_the_whole() -> None:
    images, texts = unit(9, 4, 1), unit(9, 4, 2)
    blocks = sum(
        rows_loss(images[a : a + 4], texts, 7.0, first=a)
        + rows_loss(texts[a : a + 4], images, 7.0, first=a)
        for a in range(0, 9, 4)
    )
    torch.testing.assert_close(blocks / 18, info_nce_loss(images, texts, 7.0))


def test_equal_photos_captions_and_labels_are_positives() -> None:
    same = positives(
        torch.tensor([0, 0, 1, 2]), torch.tensor([5, 6, 7, 7]), torch.tensor([3, -1, -1, 3])
    )
    expected = torch.eye(4, dtype=torch.bool)
    for i, j in [(0, 1), (2, 3), (0, 3)]:
        expected[i, j] = expected[j, i] = True
    assert torch.equal(same, expected)


def test_half_precision_vectors_give_float32_logits() -> None:
    images, texts = unit(8, 4, 1).to(torch.bfloat16), unit(8, 4, 2).to(torch.bfloat16)
    assert info_nce_loss(images, texts, 100.0).dtype == torch.float32


def test_a_batch_of_one_is_refused_with_a_way_on() -> None:
    with pytest.raises(TrainingDataError, match="at least 2 pairs") as caught:
        info_nce_loss(unit(1, 4, 1), unit(1, 4, 2), 10.0)
    assert "--batch-size" in (caught.value.hint or "")
