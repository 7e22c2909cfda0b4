"""The gradient of a batch in pieces is the gradient of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import tiny_config, tiny_model

from clipsearch.errors import ModelError, TrainingDataError
from clipsearch.train.gradcache import Inputs, Objective, backward, pairs_that_fit
from clipsearch.train.loss import info_nce_loss, positives, siglip_loss
from clipsearch.train.towers import Towers, load_towers, new_towers, random_boxes


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return load_towers(tiny_model(tmp_path_factory.mktemp("tiny")), device="cpu")


def some_inputs(towers: Towers, count: int, *, crops: bool = False) -> Inputs:
    generator = np.random.default_rng(1)
    tokens, _ = towers.tokenise([f"a photo of thing number {i // 2 + 1}" for i in range(count)])
    return Inputs(
        photos=torch.arange(count),
        captions=torch.arange(count) // 2,  # pairs of equal captions
        labels=torch.full((count,), -1),
        pixels=generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        boxes=random_boxes(count, 0.5, True, torch.Generator().manual_seed(1)) if crops else None,
        tokens=torch.from_numpy(tokens),
    )


def gradients(towers: Towers) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in towers.model.named_parameters()
        if parameter.grad is not None
    }


def assert_same_gradients(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((gradient - other[name]).abs().max()) / scale < tolerance, name


def plain_gradients(towers: Towers, inputs: Inputs) -> tuple[float, dict[str, torch.Tensor]]:
    """One pass, one loss, autograd all the way: what the cached way must equal."""
    towers.model.zero_grad()
    images, texts, scale, *bias = towers.model(
        towers.image_inputs(inputs.pixels, inputs.boxes), inputs.tokens
    )
    same = positives(inputs.photos, inputs.captions, inputs.labels)
    if bias:
        loss = siglip_loss(images, texts, scale, bias[0], targets=same)
    else:
        loss = info_nce_loss(images, texts, scale, targets=same)
    loss.backward()
    return float(loss.detach()), gradients(towers)


@pytest.mark.parametrize("micro_batch", [24, 8, 5])
def test_any_micro_batch_gives_the_gradient_of_the_whole_batch(
    towers: Towers, micro_batch: int
) -> None:
    inputs = some_inputs(towers, 24, crops=True)
    towers.training_mode()
    loss, expected = plain_gradients(towers, inputs)
    towers.model.zero_grad()
    mine = backward(towers, inputs, Objective(), micro_batch=micro_batch)
    assert mine == pytest.approx(loss, abs=1e-5)
    assert "logit_scale" in expected
    assert_same_gradients(gradients(towers), expected)


def test_rows_of_logits_in_blocks_change_nothing(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = some_inputs(towers, 24)
    loss, expected = plain_gradients(towers, inputs)
    monkeypatch.setattr("clipsearch.train.gradcache._ROWS", 7)
    towers.model.zero_grad()
    assert backward(towers, inputs, Objective(), micro_batch=6) == pytest.approx(loss, abs=1e-5)
    assert_same_gradients(gradients(towers), expected)


def test_siglip_gradients_reach_scale_and_bias(tmp_path: Path) -> None:
    siglip = new_towers(str(tiny_config(tmp_path, init_logit_bias=-10.0)), device="cpu")
    inputs = some_inputs(siglip, 12)
    loss, expected = plain_gradients(siglip, inputs)
    siglip.model.zero_grad()
    mine = backward(siglip, inputs, Objective(siglip=True), micro_batch=5)
    assert mine == pytest.approx(loss, rel=1e-6)
    assert {"logit_scale", "logit_bias"} <= expected.keys()
    assert_same_gradients(gradients(siglip), expected)


def test_dropout_is_the_same_in_both_passes(tmp_path: Path) -> None:
    """With patches dropped at random, the loss of the first pass is the one that is descended."""
    vision = {
        "image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32,
        "patch_dropout": 0.5,
    }  # fmt: skip
    dropping = new_towers(str(tiny_config(tmp_path, vision_cfg=vision)), device="cpu")
    dropping.training_mode()
    inputs = some_inputs(dropping, 12)
    torch.manual_seed(7)
    dropping.model.zero_grad()
    backward(dropping, inputs, Objective(), micro_batch=4)
    cached = gradients(dropping)

    # The same random numbers, chunk by chunk, in one graph.
    torch.manual_seed(7)
    parts = [
        dropping.model(dropping.image_inputs(inputs.pixels[i : i + 4]), inputs.tokens[i : i + 4])
        for i in range(0, 12, 4)
    ]
    dropping.model.zero_grad()
    info_nce_loss(
        torch.cat([part[0] for part in parts]),
        torch.cat([part[1] for part in parts]),
        parts[0][2],
        targets=positives(inputs.photos, inputs.captions),
    ).backward()
    assert_same_gradients(cached, gradients(dropping))


def test_vectors_of_a_locked_tower_stand_for_its_photos(towers: Towers) -> None:
    inputs = some_inputs(towers, 16)
    _, expected = plain_gradients(towers, inputs)
    vectors = torch.from_numpy(towers.embed_pixels(inputs.pixels))
    inputs.image_vectors, inputs.pixels = vectors, None
    towers.model.zero_grad()
    backward(towers, inputs, Objective(), micro_batch=4)
    mine = gradients(towers)
    assert not any(name.startswith("visual.") for name in mine)
    assert_same_gradients(mine, {name: expected[name] for name in mine})


def test_batch_statistics_are_refused(towers: Towers) -> None:
    inputs = some_inputs(towers, 8)
    towers.model.visual.extra = torch.nn.BatchNorm1d(4)
    try:
        towers.model.train()
        with pytest.raises(ModelError, match="normalises over the batch"):
            backward(towers, inputs, Objective(), micro_batch=4)
        towers.training_mode()
        backward(towers, inputs, Objective(), micro_batch=4)
    finally:
        del towers.model.visual.extra
        towers.model.zero_grad()


def test_one_pair_is_refused(towers: Towers) -> None:
    with pytest.raises(TrainingDataError, match="at least 2 pairs"):
        backward(towers, some_inputs(towers, 1), Objective(), micro_batch=4)


def test_fewer_pairs_fit_into_less_memory(towers: Towers) -> None:
    inputs = some_inputs(towers, 4)
    small, large = (pairs_that_fit(towers, inputs, "fp32", size) for size in (64 << 20, 1 << 30))
    assert 2 <= small < large
    assert large & (large - 1) == 0


def test_reading_only_real_tokens_gives_open_clips_vectors(towers: Towers) -> None:
    tokens, _ = towers.tokenise(["a dog", "two dogs on a red sofa in the sun", "x " * 40])
    theirs = (
        type(towers.model)
        .encode_text(towers.model, torch.from_numpy(tokens), normalize=True)
        .detach()
    )
    np.testing.assert_allclose(towers.embed_tokens(tokens), theirs.numpy(), atol=1e-6)
