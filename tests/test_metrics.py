"""Retrieval figures against plain, full-matrix numpy."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch.errors import TrainingDataError
from clipsearch.train.evaluate import RetrievalFigures
from clipsearch.train.metrics import (
    PairRetrieval,
    Retrieval,
    ranks,
    retrieval_metrics,
    summarise,
)
from clipsearch.train.report import points_lost


def unit(generator: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = generator.standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def plain_ranks(scores: np.ndarray, right: list[set[int]]) -> list[int]:
    """Sort, wrong ones first among equals, and look where the first right one stands."""
    found = []
    for row, good in zip(scores, right, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j in good))
        wrong_before = 0
        for j in order:
            if j in good:
                break
            wrong_before += 1
        found.append(wrong_before + 1)
    return found


def test_equals_plain_sorting_in_both_directions() -> None:
    generator = np.random.default_rng(3)
    images, texts = unit(generator, 40, 8), unit(generator, 200, 8)
    owners = np.repeat(np.arange(40), 5)
    metrics = retrieval_metrics(images, texts, owners)
    to_image = plain_ranks(texts @ images.T, [{int(o)} for o in owners])
    to_text = plain_ranks(images @ texts.T, [set(range(5 * i, 5 * i + 5)) for i in range(40)])
    for mine, plain, pool in [
        (metrics.text_to_image, to_image, 40),
        (metrics.image_to_text, to_text, 200),
    ]:
        assert mine.pool == pool
        assert mine.queries == len(plain)
        for k in (1, 5, 10):
            assert mine.recall[k] == pytest.approx(sum(r <= k for r in plain) / len(plain))
        assert mine.median_rank == np.median(plain)
        assert mine.mean_reciprocal_rank == pytest.approx(np.mean([1 / r for r in plain]))


def test_small_chunks_change_nothing() -> None:
    generator = np.random.default_rng(4)
    queries, keys = unit(generator, 33, 6), unit(generator, 21, 6)
    query_groups, key_groups = np.arange(33) % 7, np.arange(21) % 7
    whole = ranks(queries, keys, query_groups, key_groups)
    assert np.array_equal(whole, ranks(queries, keys, query_groups, key_groups, chunk=4))


def test_a_model_that_gives_one_vector_for_everything_finds_nothing() -> None:
    same = np.tile(unit(np.random.default_rng(5), 1, 512), (150, 1))
    metrics = retrieval_metrics(same, same, np.arange(150))
    assert metrics.text_to_image.recall == {1: 0.0, 5: 0.0, 10: 0.0}
    assert metrics.image_to_text.median_rank == 150


def test_a_photo_finds_its_caption_in_another_that_says_the_same() -> None:
    """Three photos, two of them 'a dog': their captions' vectors cannot but be equal."""
    vectors = np.eye(3, dtype=np.float32)
    texts = vectors[[0, 0, 2, 1]]  # 'a dog', 'a dog', 'a cat', 'two dogs'
    said = np.array([5, 5, 0, 1])
    for known, hits in ((None, 1 / 3), (said, 2 / 3)):
        found = retrieval_metrics(vectors, texts, [0, 1, 2, 2], said=known)
        assert found.image_to_text.recall[1] == pytest.approx(hits)
        # Photo 2 has 'two dogs' too; photo 1 looks like that, and misses its own.
        assert found.text_to_image.recall[1] == pytest.approx(2 / 4)


def test_perfect_vectors_find_everything_first() -> None:
    metrics = retrieval_metrics(
        np.eye(12, dtype=np.float32), np.eye(12, dtype=np.float32), range(12)
    )
    assert metrics.text_to_image.recall[1] == 1.0
    assert metrics.image_to_text.mean_reciprocal_rank == 1.0


def test_vectors_that_are_not_numbers_are_an_error_not_a_rank() -> None:
    vectors = np.eye(3, dtype=np.float32)
    broken = vectors.copy()
    broken[1, 1] = np.nan
    with pytest.raises(TrainingDataError, match="not finite"):
        retrieval_metrics(broken, vectors, range(3))


def test_a_photo_without_a_caption_is_an_error() -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(TrainingDataError, match="no right answer"):
        retrieval_metrics(vectors, vectors[:2], [0, 1])


def test_summary_of_known_ranks() -> None:
    metrics = summarise(np.array([1, 2, 6, 11]), pool=20)
    assert metrics.recall == {1: 0.25, 5: 0.5, 10: 0.75}
    assert metrics.median_rank == 4
    assert metrics.mean_reciprocal_rank == pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 11) / 4)


def test_one_point_lost_is_no_more_than_one():
    def found(share: float) -> PairRetrieval:
        one_way = Retrieval(2500, 500, {1: 0.4, 5: 0.7, 10: share}, 2.0, 0.5)
        return PairRetrieval(one_way, one_way)

    assert 100 * (0.8316 - 0.8216) > 1
    assert points_lost(found(0.8316), found(0.8216)) == 1
    assert points_lost(found(0.8316), found(0.8212)) == 1.04


def test_what_figures_rest_on_is_told_of_one_photo_too() -> None:
    one = unit(np.random.default_rng(1), 1, 8)
    figures = RetrievalFigures("m", 1, 0, "all", retrieval_metrics(one, one, np.arange(1)), [])
    assert figures.basis() == "retrieval: 1 photo, 1 caption; all"
