"""The parts of a query become one vector whose order is that of their standardised scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_kit import delete_rows, fill

from clipsearch.errors import UsageError
from clipsearch.library.querying import Query
from clipsearch.search import Part, Words, combine, date_bound, parse_words
from clipsearch.store.reader import Reader


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def library_vectors() -> np.ndarray:
    generator = np.random.default_rng(5)
    return unit(generator.standard_normal((500, 32)) + 2 * generator.standard_normal(32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snow", Words("snow", 1.0)),
        ("snow:2", Words("snow", 2.0)),
        ("  snow and ice:0.5 ", Words("snow and ice", 0.5)),
        ("a train at 12:30", Words("a train at 12:30", 1.0)),
        ("ratio: wide", Words("ratio: wide", 1.0)),
        ("snow:.5", Words("snow", 0.5)),
    ],
)
def test_a_weight_is_a_number_after_a_colon_but_not_a_time(text: str, words: Words) -> None:
    assert parse_words(text) == words


def test_words_to_stay_away_from_weigh_negative() -> None:
    assert parse_words("people:2", sign=-1) == Words("people", -2.0)


@pytest.mark.parametrize("text", ["", "   ", "snow:0", "snow:-1", "snow:nan", "snow:inf"])
def test_nothing_to_look_for_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_words(text)


def test_one_part_is_searched_for_as_it_is(library_vectors: np.ndarray) -> None:
    part = Part(library_vectors[0], 3.0)
    assert np.array_equal(combine([part], library_vectors), library_vectors[0])


def test_parts_are_standardised_so_that_a_picture_does_not_drown_words(
    library_vectors: np.ndarray,
) -> None:
    generator = np.random.default_rng(1)
    picture = library_vectors[7]
    # Words lie off the cone of pictures, so their scores spread less.
    words = unit(picture * 0.1 + unit(generator.standard_normal(32)))
    vector = combine([Part(picture, 1.0), Part(words, 1.0)], library_vectors)
    scores = library_vectors @ np.stack([picture, words]).T
    standardised = ((scores - scores.mean(axis=0)) / scores.std(axis=0)).sum(axis=1)
    assert np.array_equal(np.argsort(library_vectors @ vector), np.argsort(standardised))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_how_far_scores_spread_is_learned_from_the_photos_that_are_left(
    tmp_path: Path, library_vectors: np.ndarray
) -> None:
    fill(tmp_path, np.concatenate([library_vectors] * 4))
    delete_rows(tmp_path, [row for row in range(2000) if row % 97])
    with Reader.open(tmp_path) as reader:
        sample = Query(tmp_path, reader, pytest.fail)._spread_sample()
        left = reader.vectors(1, range(0, 2000, 97))
    assert np.array_equal(sample, left)


def test_a_negative_part_lowers_what_resembles_it(library_vectors: np.ndarray) -> None:
    wanted, unwanted = library_vectors[3], library_vectors[4]
    vector = combine([Part(wanted, 1.0), Part(unwanted, -1.0)], library_vectors)
    assert vector @ unwanted < wanted @ unwanted


@pytest.mark.parametrize("size", [1e-50, 1e50])
def test_only_the_ratio_of_weights_counts(library_vectors: np.ndarray, size: float) -> None:
    one, other = library_vectors[3], library_vectors[4]
    huge = combine([Part(one, 2 * size), Part(other, -size)], library_vectors)
    plain = combine([Part(one, 2.0), Part(other, -1.0)], library_vectors)
    np.testing.assert_array_equal(huge, plain)


def test_parts_that_cancel_out_are_wrong_usage(library_vectors: np.ndarray) -> None:
    part = library_vectors[0]
    with pytest.raises(UsageError, match="cancel"):
        combine([Part(part, 1.0), Part(part, -1.0)], library_vectors)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024", "2024-01-01T00:00:00"),
        ("2024-06", "2024-06-01T00:00:00"),
        ("2024-02-29", "2024-02-29T00:00:00"),
    ],
)
def test_dates_are_years_months_or_days(text: str, moment: str) -> None:
    assert date_bound(text, option="--after") == moment


@pytest.mark.parametrize("text", ["", "24", "2024-13", "2023-02-29", "2024-1-1", "yesterday"])
def test_what_is_no_date_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="not a date"):
        date_bound(text, option="--after")
