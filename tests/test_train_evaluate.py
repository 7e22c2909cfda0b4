"""Figures of `evaluate` against plain numpy, and against open_clip's own evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import COLOURS, draw, tiny_model, tiny_pairs

from clipsearch.errors import TrainingDataError
from clipsearch.library import Library, training
from clipsearch.models import LocalEncoder, import_open_clip, load_encoder
from clipsearch.train import (
    Settings,
    evaluate_probe,
    evaluate_retrieval,
    evaluate_zero_shot,
    finetune,
)
from clipsearch.train.evaluate import SINGLE_TEMPLATE, accuracy, class_vectors, fit_linear
from clipsearch.train.towers import Towers, load_towers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learned a little, so that its figures are not all chance."""
    folder = tmp_path_factory.mktemp("evaluate")
    pairs = tiny_pairs(folder / "pairs", 96)
    settings = Settings(
        method="full", epochs=5, batch_size=24, micro_batch=24, learning_rate=3e-3, anchor=0
    )
    finetune(
        pairs, output=folder / "run", model=tiny_model(folder), settings=settings, device="cpu"
    )
    return folder / "run"


@pytest.fixture(scope="module")
def encoder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalEncoder:
    return load_encoder(model, device="cpu", cache_folder=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six colours, eight pictures each."""
    folder, generator = tmp_path_factory.mktemp("classes"), np.random.default_rng(5)
    for colour in COLOURS:
        for number in range(8):
            draw(folder / f"{colour}_thing" / f"{number}.png", "ball", colour, generator)
    return folder


def open_clip_pixels(towers: Towers, paths: list[Path]) -> torch.Tensor:
    from PIL import Image

    prepare = import_open_clip().image_transform(
        32, is_train=False, mean=towers.preprocess.mean, std=towers.preprocess.std
    )
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(prepare(image))
    return torch.stack(pictures)


def test_retrieval_equals_open_clips_metrics(
    model: Path, encoder: LocalEncoder, tmp_path: Path
) -> None:
    """Against `open_clip_train.train.get_clip_metrics` on vectors of open_clip's own pipeline."""
    from open_clip_train.train import get_clip_metrics

    pairs = tiny_pairs(tmp_path, 60, seed=9)
    rows = [line.split(",") for line in pairs.read_text().splitlines()[1:]]
    towers = load_towers(model, device="cpu")
    with torch.no_grad():
        images = towers.model.encode_image(
            open_clip_pixels(towers, [tmp_path / row[0] for row in rows]), normalize=True
        )
        texts = towers.model.encode_text(towers.tokenizer([row[1] for row in rows]), normalize=True)
    theirs = get_clip_metrics(images, texts, torch.tensor(1.0))
    found = evaluate_retrieval(pairs, encoder).metrics
    for mine, name in (
        (found.text_to_image, "text_to_image"),
        (found.image_to_text, "image_to_text"),
    ):
        for k in (1, 5, 10):
            assert mine.recall[k] == pytest.approx(theirs[f"{name}_R@{k}"])
        assert mine.median_rank == pytest.approx(theirs[f"{name}_median_rank"], abs=0.5)


def test_rules_for_captions_are_named_and_kept(encoder: LocalEncoder, tmp_path: Path) -> None:
    table = tiny_pairs(tmp_path, 12)
    table.write_text(table.read_text() + "000.png,another thing\n")
    everything = evaluate_retrieval(table, encoder)
    first = evaluate_retrieval(table, encoder, captions="first")
    assert everything.metrics.text_to_image.queries == 13
    assert everything.metrics.image_to_text.pool == 13
    assert first.metrics.text_to_image.queries == 12
    assert "any one of its captions" in everything.rule
    assert "first caption" in first.rule


def test_zero_shot_equals_open_clips(model: Path, encoder: LocalEncoder, classes: Path) -> None:
    """Against open_clip's own classifier of its 80 templates.

    Its `accuracy` does not run under numpy 2.4; the two lines with topk are what it does.
    """
    open_clip = import_open_clip()
    names = sorted(folder.name.replace("_", " ") for folder in classes.iterdir())
    towers = load_towers(model, device="cpu")
    classifier = open_clip.build_zero_shot_classifier(
        towers.model, towers.tokenizer, names, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    paths = sorted(classes.glob("*/*.png"))
    labels = torch.tensor([names.index(path.parent.name.replace("_", " ")) for path in paths])
    with torch.no_grad():
        images = towers.model.encode_image(open_clip_pixels(towers, paths), normalize=True)
    best = (images @ classifier).topk(5, dim=1).indices
    top1, top5 = ((best[:, :k] == labels[:, None]).any(dim=1).sum().item() for k in (1, 5))
    found = evaluate_zero_shot(classes, encoder)
    assert (found.photos, found.classes) == (48, 6)
    assert found.ensemble.top1 == pytest.approx(top1 / 48)
    assert found.ensemble.top5 == pytest.approx(top5 / 48)
    single = class_vectors(names, [SINGLE_TEMPLATE.format], encoder)
    expected = encoder.texts([f"a photo of a {name}." for name in names])
    np.testing.assert_allclose(single, expected, atol=1e-6)
    assert len(found.rows(per_class=True)) == 4 + 6


def test_accuracy_against_plain_counting() -> None:
    generator = np.random.default_rng(1)
    scores = generator.standard_normal((50, 7)).astype(np.float32)
    labels = generator.integers(0, 7, 50)
    found = accuracy(scores, labels, list("abcdefg"))
    order = np.argsort(-scores, axis=1)
    assert found.top1 == pytest.approx(np.mean(order[:, 0] == labels))
    assert found.top5 == pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(axis=1)))
    mine = labels == 2
    assert found.per_class["c"] == pytest.approx(np.mean(order[mine, 0] == 2))
    tied = accuracy(np.zeros((7, 7), np.float32), np.arange(7), list("abcdefg"))
    assert tied.top1 == tied.top5 == 0


def test_a_probe_learns_colours_from_frozen_vectors(encoder: LocalEncoder, classes: Path) -> None:
    found = evaluate_probe(classes, encoder)
    assert set(found.few_shot) == {1, 2, 4}  # half of the eight photos of a class teach
    assert found.linear > 0.5
    assert found.linear >= found.few_shot[1]
    again = evaluate_probe(classes, encoder)
    assert again == found


def test_a_photo_counts_once_however_often_it_is_there(
    encoder: LocalEncoder, classes: Path, tmp_path: Path
) -> None:
    """A row for each caption, and copies: else a probe is tested with what taught it."""
    photos = sorted(classes.glob("*/*.png"))
    shutil.copyfile(photos[0], tmp_path / "copy.png")
    rows = [f"{p},{say},{p.parent.name}" for p in photos for say in ("one", "two")]
    extra = [f"{tmp_path / 'copy.png'},One!,{photos[0].parent.name}", f"{photos[-1]},,other"]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["filepath,caption,label", *rows, *extra]))
    plain, tabled = (evaluate_probe(source, encoder) for source in (classes, table))
    assert (tabled.photos, tabled.classes) == (48, 6)
    assert tabled.linear == plain.linear
    reasons = ["the same photo as another file", "it is 'yellow_thing' already"]
    assert [item.reason for item in tabled.left_out] == reasons

    found = evaluate_retrieval(table, encoder)
    assert found.photos == found.metrics.image_to_text.queries == 48
    assert found.metrics.text_to_image.queries == 96
    first = evaluate_retrieval(table, encoder, captions="first")
    assert first.metrics.text_to_image.queries == 48


def test_the_linear_fit_reaches_the_optimum() -> None:
    """At the minimum of a convex loss the gradient, computed here by hand, is nothing."""
    generator = np.random.default_rng(2)
    vectors = generator.standard_normal((60, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = generator.integers(0, 3, 60)
    decay = 1e-3
    weights = fit_linear(vectors, labels, 3, decay=decay).astype(np.float64)
    inputs = np.concatenate([vectors * np.sqrt(5), np.ones((60, 1))], axis=1)
    logits = inputs @ weights
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    gradient = inputs.T @ (shares - np.eye(3)[labels]) / 60 + 2 * decay * weights
    assert np.abs(gradient).max() < 1e-4


def test_several_models_are_compared_in_one_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def load(name: str, *, precision: str, **more: object) -> LocalEncoder:
        used.append(precision)
        return load_encoder(name, precision=precision, cache_folder=tmp_path / "cache")

    monkeypatch.setattr("clipsearch.models.load_encoder", load)
    pairs, model = tiny_pairs(tmp_path / "pairs", 12), str(tiny_model(tmp_path))
    with Library.open(tmp_path / "library") as library:
        for models, precision in (([model], "auto"), ([model] * 2, "auto"), ([model] * 2, "bf16")):
            training.evaluate(library, models=models, pairs=pairs, precision=precision)
    assert used == ["auto", "fp32", "fp32", "bf16", "bf16"]


def test_what_cannot_be_evaluated_says_why(encoder: LocalEncoder, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    draw(tmp_path / "one" / "ball" / "1.png", "ball", "red", generator)
    with pytest.raises(TrainingDataError, match="one class only"):
        evaluate_zero_shot(tmp_path / "one", encoder)
    draw(tmp_path / "one" / "box" / "1.png", "box", "red", generator)
    with pytest.raises(TrainingDataError, match="has one photo"):
        evaluate_probe(tmp_path / "one", encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingDataError, match="no labelled photo"):
        evaluate_zero_shot(tmp_path / "empty", encoder)
    (tmp_path / "one" / "box" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    found = evaluate_zero_shot(tmp_path / "one", encoder)
    assert len(found.left_out) == 1
