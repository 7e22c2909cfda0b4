"""The FAISS file: recall, filters, deletions, damage; hits are always those of an exact search."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_kit import FINGERPRINTS, clustered, delete_rows, fill, unit

from clipsearch.errors import UsageError
from clipsearch.library import Library
from clipsearch.library.training import index_recall
from clipsearch.records import Float32Array, RowArray
from clipsearch.store import ann, ann_file
from clipsearch.store.catalog import Catalog
from clipsearch.store.reader import Filter, Model, Reader
from clipsearch.store.text_cache import TextCache

FAISS_FILE = Path("ann") / FINGERPRINTS.image / "index.faiss"
FACTS_FILE = Path("ann") / FINGERPRINTS.image / "index.json"


def plain_scan(
    vectors: Float32Array, queries: Float32Array, k: int, allowed: RowArray
) -> tuple[Float32Array, RowArray]:
    """What `nearest` must give: one product in float64, ties by row."""
    stored = vectors.astype(np.float16).astype(np.float64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for number, query in enumerate(queries):
        of_query = np.array([stored[row] @ query.astype(np.float64) for row in allowed], "f4")
        order = np.lexsort((allowed, -of_query))[:k]
        scores[number, : len(order)] = of_query[order]
        rows[number, : len(order)] = allowed[order]
    return scores, rows


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Float32Array, Float32Array]:
    """A library of 100,000 photos with its index; the vectors, and 100 text-like queries."""
    folder = tmp_path_factory.mktemp("big")
    vectors, queries = clustered(100_000, 100, 128)
    model = fill(folder, vectors)
    with Reader.open(folder) as reader:
        report = ann.build(folder, reader, model)
        assert report.facts is not None
    return folder, vectors, queries


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Model, Float32Array, Float32Array]:
    """12,000 photos with an index, to be spoilt."""
    vectors, queries = clustered(12_000, 20, 32)
    model = fill(tmp_path, vectors)
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, model)
    return tmp_path, model, vectors, queries


def test_a_hundred_thousand_vectors_are_found_with_the_recall_that_was_asked_for(
    big: tuple[Path, Float32Array, Float32Array],
) -> None:
    folder, _, queries = big
    with Reader.open(folder) as reader:
        model = reader.models()[0]
        index, notice = ann.open_index(folder, model)
        assert notice is None
        assert index is not None
        assert not index.facts.exact
        assert index.facts.nprobe["10"] < index.facts.nlist
        assert str(index.facts.nprobe["10"]) in index.facts.why
        found = ann.nearest(reader, index, model, queries, 10)
        exact = ann.nearest(reader, index, model, queries, 10, exact=True)
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.99
        measured = ann.measure_recall(folder, reader, model)
        assert measured is not None
        assert min(measured.values()) >= 0.98  # 500 neighbours: 0.99 within chance
        # `evaluate --index` says the same.
        assert index_recall(Library.open(folder)) == measured
        photos = reader.vectors(model.id, range(0, 100_000, 1000))
        found = ann.nearest(reader, index, model, photos, 10)
        exact = ann.nearest(reader, None, model, photos, 10)
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.99


def test_the_user_chooses_how_a_library_is_searched(tmp_path: Path) -> None:
    vectors, queries = clustered(600, 5, 32)
    model = fill(tmp_path, vectors)
    library = Library.open(tmp_path)
    for choice, has_file, said in (
        ("lists", True, "lists"),
        ("exact", False, "every vector is compared (as `compact --search` was told)"),
        ("auto", False, "every vector is compared (quick enough below 10,000)"),
    ):
        library.compact(search=choice)
        library.compact()  # and it stays so
        assert (tmp_path / FAISS_FILE).exists() == has_file
        assert said in library.status().search
        assert ("was told" in library.status().search) == (choice != "auto")
        assert [finding for finding in library.check() if finding.is_damage] == []
        with Reader.open(tmp_path) as reader:
            index, notice = ann.open_index(tmp_path, model)
            assert notice is None
            assert (index is not None) == has_file
            found = ann.nearest(reader, index, model, queries, 10)
            exact = ann.nearest(reader, None, model, queries, 10)
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.98
    with pytest.raises(UsageError, match="no such way"):
        library.compact(search="fastest")


@pytest.mark.parametrize("share", [0.5, 0.01, 0.001])
@pytest.mark.parametrize("kind", ["anywhere", "far from the query"])
def test_a_filter_gives_k_hits_whatever_share_is_left(
    big: tuple[Path, Float32Array, Float32Array],
    share: float,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, vectors, queries = big
    queries = queries[:20]
    if share == 0.5:
        # as in a larger library: lists are left out, and doubled until nothing new comes
        monkeypatch.setattr(ann, "_EVERY_LIST_ROWS", 5_000)
    if kind == "anywhere":
        allowed = np.flatnonzero(np.random.default_rng(3).random(len(vectors)) < share)
    else:
        away = (vectors @ queries.mean(axis=0)).argsort()[: int(share * len(vectors))]
        allowed = np.sort(away)
    with Reader.open(folder) as reader:
        model = reader.models()[0]
        index, _ = ann.open_index(folder, model)
        found = ann.nearest(reader, index, model, queries, 10, allowed=allowed)
        exact = ann.nearest(reader, None, model, queries, 10, allowed=allowed)
    assert (found.rows >= 0).all()
    assert np.isin(found.rows, allowed).all()
    assert ann.recall_at_k(found.rows, exact.rows) >= 0.99
    if share < 0.5:
        np.testing.assert_array_equal(found.rows, exact.rows)
        np.testing.assert_array_equal(found.scores, exact.scores)


def test_a_thousand_deletions_around_the_best_hits_still_give_k_live_ones(
    small: tuple[Path, Model, Float32Array, Float32Array],
) -> None:
    folder, model, vectors, queries = small
    best = (vectors @ queries[0]).argsort()[-1000:]
    delete_rows(folder, best.tolist())
    with Reader.open(folder) as reader:
        index, notice = ann.open_index(folder, model)
        assert notice is None
        found = ann.nearest(reader, index, model, queries, 10)
        exact = ann.nearest(reader, None, model, queries, 10)
        assert found.notice is None
        assert not np.isin(found.rows, best).any()
        assert (found.rows >= 0).all()
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.99
        assert ann.recall_at_k(found.rows[:1], exact.rows[:1]) == 1
        alive = np.setdiff1d(np.arange(len(vectors)), best)
        rows = reader.rows_matching(model.id, [Filter("after", "2024")])
        assert rows is not None
        np.testing.assert_array_equal(rows, alive)


def test_deletions_after_a_great_clearing_still_give_k_live_hits(tmp_path: Path) -> None:
    """The file was made after more rows had been deleted than it holds itself."""
    vectors, queries = clustered(21_000, 20, 32)
    model = fill(tmp_path, vectors)
    delete_rows(tmp_path, range(11_000))
    with Reader.open(tmp_path) as reader:
        report = ann.build(tmp_path, reader, model)
        assert report.facts is not None
        assert report.facts.vectors == 10_000
        best = ann.nearest(reader, None, model, queries, 3).rows
    delete_rows(tmp_path, np.unique(best).tolist())
    with Reader.open(tmp_path) as reader:
        index, _ = ann.open_index(tmp_path, model)
        found = ann.nearest(reader, index, model, queries, 10)
    assert found.notice is None
    assert (found.rows >= 0).all()
    assert not np.isin(found.rows, best).any()


def test_the_rows_after_the_index_are_searched_too_and_folded_in_in_time(
    small: tuple[Path, Model, Float32Array, Float32Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, vectors, queries = small
    later = unit(vectors[:1500] + np.roll(vectors, 1, axis=0)[:1500] * np.float32(0.1))
    model = fill(folder, later, first=len(vectors))
    everything = np.concatenate([vectors, later])
    like_new = later[:5]
    with Reader.open(folder) as reader:
        index, _ = ann.open_index(folder, model)
        assert index is not None
        found = ann.nearest(reader, index, model, like_new, 10)
        exact = ann.nearest(reader, None, model, like_new, 10)
        np.testing.assert_array_equal(found.rows, exact.rows)
        assert ann.refresh(folder, reader, model) is None  # a short tail
        monkeypatch.setattr(ann, "TAIL_ROWS", 1000)
        report = ann.refresh(folder, reader, model)
        assert report is not None
        assert report.facts is not None
        assert report.facts.trained_vectors == len(vectors)  # added to, not trained again
        assert report.facts.rows == report.facts.vectors == len(everything)
        assert ann.verify(folder, reader, model) is None
        index, _ = ann.open_index(folder, model)
        found = ann.nearest(reader, index, model, queries, 10)
        exact = ann.nearest(reader, None, model, queries, 10)
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.99
        assert ann.refresh(folder, reader, model) is None


@pytest.mark.parametrize(
    "damage",
    ["truncated", "missing", "head", "facts", "facts missing", "other model", "lists", "ids"],
)
def test_a_spoilt_index_is_noticed_and_the_search_goes_on_exactly(
    small: tuple[Path, Model, Float32Array, Float32Array], damage: str
) -> None:
    folder, model, _, queries = small
    file, facts = folder / FAISS_FILE, folder / FACTS_FILE
    whole = bytearray(file.read_bytes())
    head = json.loads(facts.read_bytes())["head_bytes"]
    if damage == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "missing":
        file.unlink()
    elif damage == "head":
        whole[head // 2] ^= 1
        file.write_bytes(whole)
    elif damage == "facts":
        facts.write_text("{")
    elif damage == "facts missing":
        facts.unlink()
    elif damage == "other model":
        text = facts.read_text().replace('"model_id": 1', '"model_id": 2')
        facts.write_text(text)
    elif damage == "lists":
        file.write_bytes(bytes(whole[:head]) + bytes(byte ^ 0x3C for byte in whole[head:]))
    else:  # every stored row number and vector shifted by one record
        file.write_bytes(whole[:head] + whole[head + 40 :] + whole[head : head + 40])
    with Reader.open(folder) as reader:
        index, notice = ann.open_index(folder, model)
        found = ann.nearest(reader, index, model, queries, 10)
        exact = ann.nearest(reader, None, model, queries, 10)
        np.testing.assert_array_equal(found.rows, exact.rows)
        said = [one for one in (notice, found.notice) if one is not None]
        if damage == "facts missing":
            assert said == []
        else:
            assert len(said) == 1
            assert "searching exactly" in said[0][0]
            assert "check --repair" in str(said[0][1])
            assert ann.verify(folder, reader, model) is not None
        if damage not in {"lists", "ids"}:  # which nobody sees without reading every byte
            assert ann.refresh(folder, reader, model) is not None
            assert ann.open_index(folder, model)[1] is None
            assert ann.verify(folder, reader, model) is None


def test_one_flipped_bit_anywhere_is_found_by_verify(
    small: tuple[Path, Model, Float32Array, Float32Array],
) -> None:
    folder, model, _, _ = small
    whole = bytearray((folder / FAISS_FILE).read_bytes())
    whole[len(whole) * 3 // 4] ^= 1
    (folder / FAISS_FILE).write_bytes(whole)
    with Reader.open(folder) as reader:
        assert "checksum" in str(ann.verify(folder, reader, model))


def test_the_index_of_a_catalogue_that_was_put_back_is_not_trusted(tmp_path: Path) -> None:
    first, queries = clustered(10_500, 5, 32)
    fill(tmp_path, first)
    backup = (tmp_path / "catalog.sqlite").read_bytes()
    fill(tmp_path, clustered(500, 1, 32, seed=1)[0], first=len(first))
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, reader.models()[0])
    (tmp_path / "catalog.sqlite").write_bytes(backup)
    with Reader.open(tmp_path) as reader:  # fewer rows than the file
        model = reader.models()[0]
        index, _ = ann.open_index(tmp_path, model)
        assert ann.nearest(reader, index, model, queries, 10).notice is not None
    fill(tmp_path, clustered(900, 1, 32, seed=2)[0], first=len(first))
    with Reader.open(tmp_path) as reader:  # more rows, others behind the 10,500th
        model = reader.models()[0]
        index, _ = ann.open_index(tmp_path, model)
        found = ann.nearest(reader, index, model, queries, 10)
        assert found.notice is not None
        np.testing.assert_array_equal(
            found.rows, ann.nearest(reader, None, model, queries, 10).rows
        )
        assert ann.refresh(tmp_path, reader, model) is not None
        index, _ = ann.open_index(tmp_path, model)
        assert ann.nearest(reader, index, model, queries, 10).notice is None


def test_vectors_that_no_lists_can_sort_are_searched_exactly_and_this_is_said(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    noise = unit(generator.standard_normal((10_000, 256), dtype=np.float32))
    model = fill(tmp_path, noise)
    with Reader.open(tmp_path) as reader:
        report = ann.build(tmp_path, reader, model)
        assert report.facts is not None
        assert report.facts.exact
        assert report.why.startswith("exact: ")
        index, _ = ann.open_index(tmp_path, model)
        queries = unit(generator.standard_normal((10, 256), dtype=np.float32))
        np.testing.assert_array_equal(
            ann.nearest(reader, index, model, queries, 10).rows,
            ann.nearest(reader, None, model, queries, 10).rows,
        )


def test_a_small_library_has_no_index_and_loses_one_it_has_outgrown(
    small: tuple[Path, Model, Float32Array, Float32Array],
) -> None:
    folder, _, _, _ = small
    delete_rows(folder, range(3000))
    with Reader.open(folder) as reader:
        model = reader.models()[0]
        report = ann.refresh(folder, reader, model)
        assert report is not None
        assert report.facts is None
        assert report.why.startswith("exact: ")
        assert not (folder / FAISS_FILE).exists()
        assert ann.open_index(folder, model) == (None, None)
        assert ann.refresh(folder, reader, model) is None


def test_texts_that_were_asked_take_part_in_choosing_nprobe(tmp_path: Path) -> None:
    vectors, queries = clustered(10_000, 20, 32)
    model = fill(tmp_path, vectors)
    cache = TextCache(tmp_path)
    for number, query in enumerate(queries):
        cache.put(model.name, model.text_fingerprint, f"text {number}", query, {})
    with Reader.open(tmp_path) as reader:
        report = ann.build(tmp_path, reader, model)
    assert report.facts is not None
    assert report.facts.recall.keys() == {"photo", "text-like", "asked"}


def test_a_reader_older_than_the_index_still_sees_its_own_moment(
    small: tuple[Path, Model, Float32Array, Float32Array],
) -> None:
    folder, _, vectors, queries = small
    best = (vectors @ queries[0]).argsort()[-5:]
    with Reader.open(folder) as before:
        delete_rows(folder, best.tolist())
        with Reader.open(folder) as now:
            ann.build(folder, now, now.models()[0])
        model = before.models()[0]
        index, _ = ann.open_index(folder, model)
        found = ann.nearest(before, index, model, queries[:1], 5)
        assert set(found.rows[0].tolist()) == set(best.tolist())
        assert found.notice is None  # nothing is wrong with the index


def test_an_index_that_was_renewed_meanwhile_is_no_damage(
    small: tuple[Path, Model, Float32Array, Float32Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, *_ = small

    def renew() -> None:
        delete_rows(folder, [0, 1, 2, 3, 4])
        with Reader.open(folder) as now:
            ann.build(folder, now, now.models()[0], seed=1)

    whole = ann_file.is_whole

    def renewed(*arguments) -> bool:
        renew()
        return whole(*arguments)

    with Reader.open(folder) as before:
        with monkeypatch.context() as patch:
            patch.setattr(ann_file, "is_whole", renewed)
            assert ann.verify(folder, before, model) is None  # replaced while it was read
        assert ann.verify(folder, before, model) is None  # and before it was opened
        assert ann.measure_recall(folder, before, model) is None


def test_equal_photos_are_ranked_by_row_however_they_are_found(tmp_path: Path) -> None:
    vectors, _ = clustered(12_000, 1, 32)
    vectors[::3] = vectors[0]  # 4,000 equal ones
    model = fill(tmp_path, vectors)
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, model)
        index, _ = ann.open_index(tmp_path, model)
        expected = list(range(0, 60, 3))
        exact = ann.nearest(reader, None, model, vectors[:1], 20)
        assert exact.rows[0].tolist() == expected
        found = ann.nearest(reader, index, model, vectors[:1], 20)
        np.testing.assert_array_equal(found.scores, exact.scores)


@given(
    data=st.data(),
    count=st.integers(1, 120),
    queries=st.integers(1, 3),
    k=st.integers(1, 40),
)
@settings(max_examples=25, deadline=None)
def test_nearest_at_every_list_equals_brute_force_whatever_the_photos_and_the_filter(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    count: int,
    queries: int,
    k: int,
) -> None:
    numbers = st.integers(-3, 3).map(float)  # small whole numbers: many ties
    vectors = data.draw(hnp.arrays(np.float32, (count, 4), elements=numbers))
    vectors[~vectors.any(axis=1), 0] = 1
    vectors = unit(vectors)
    asked = data.draw(hnp.arrays(np.float32, (queries, 4), elements=numbers))
    mask = data.draw(st.none() | hnp.arrays(np.bool_, count))
    dead = np.flatnonzero(data.draw(hnp.arrays(np.bool_, count)) & (np.arange(count) % 3 == 0))
    covered = data.draw(st.integers(1, count))
    folder = tmp_path_factory.mktemp("any")
    model = fill(folder, vectors[:covered])
    with pytest.MonkeyPatch.context() as patch, Reader.open(folder) as reader:
        patch.setattr(ann, "MIN_VECTORS", 12)
        patch.setattr(ann, "_FEW_ROWS", 0)
        patch.setattr(ann, "_DEPTHS", (10,))
        ann.build(folder, reader, model)
    if covered < count:
        model = fill(folder, vectors[covered:], first=covered)
    if len(dead):
        delete_rows(folder, dead.tolist())
    live = np.setdiff1d(np.arange(count), dead)
    allowed = live if mask is None else live[mask[live]]
    with pytest.MonkeyPatch.context() as patch, Reader.open(folder) as reader:
        patch.setattr(ann, "_FEW_ROWS", 0)
        index, notice = ann.open_index(folder, model)
        assert notice is None
        if index is not None:
            index.facts = replace(index.facts, nprobe={"40": index.facts.nlist})
        expected = plain_scan(vectors, asked, k, allowed)
        for one, exact in ((index, False), (None, False), (index, True)):
            given_rows = None if mask is None else np.flatnonzero(mask)
            found = ann.nearest(reader, one, model, asked, k, allowed=given_rows, exact=exact)
            assert found.notice is None
            np.testing.assert_array_equal(found.scores, expected[0])
            if one is None or exact:
                np.testing.assert_array_equal(found.rows, expected[1])


@pytest.mark.parametrize("k", [1, 10, 300])
def test_at_every_list_codes_lose_nothing(
    small: tuple[Path, Model, Float32Array, Float32Array], k: int
) -> None:
    folder, _, vectors, queries = small
    delete_rows(folder, (vectors @ queries[0]).argsort()[-5:].tolist())
    with Reader.open(folder) as reader:
        model = reader.models()[0]
        index, _ = ann.open_index(folder, model)
        assert index is not None
        index.facts = replace(index.facts, nprobe={"1000": index.facts.nlist})
        most = np.flatnonzero(np.arange(len(vectors)) % 5)
        for allowed in (None, most):
            # Not of unit length: what a code is off by grows with the query.
            for scale in (np.float32(1), np.float32(40)):
                asked = queries * scale
                found = ann.nearest(reader, index, model, asked, k, allowed=allowed)
                exact = ann.nearest(reader, None, model, asked, k, allowed=allowed)
                assert found.notice is None
                np.testing.assert_array_equal(found.rows, exact.rows)
                np.testing.assert_array_equal(found.scores, exact.scores)


def test_a_crowd_that_codes_cannot_tell_apart_is_compared_by_vector(tmp_path: Path) -> None:
    vectors, _ = clustered(12_000, 1, 32)
    generator = np.random.default_rng(0)
    step = generator.standard_normal((3_000, 32), dtype=np.float32) * np.float32(1e-3)
    vectors[::4] = unit(vectors[0] + step)
    model = fill(tmp_path, vectors)
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, model)
        index, _ = ann.open_index(tmp_path, model)
        found = ann.nearest(reader, index, model, vectors[:3], 10)
        exact = ann.nearest(reader, None, model, vectors[:3], 10)
        np.testing.assert_array_equal(found.scores[0], exact.scores[0])
        np.testing.assert_array_equal(found.rows[0], exact.rows[0])


def test_new_rows_beyond_the_range_of_the_codes_are_found(tmp_path: Path) -> None:
    vectors, queries = clustered(10_500, 5, 64)
    fill(tmp_path, vectors)
    with Reader.open(tmp_path) as reader:
        before = ann.build(tmp_path, reader, reader.models()[0]).facts
    spikes = unit(clustered(10_001, 1, 64, seed=1)[0] * np.float32(0.1) + np.eye(64, dtype="f4")[0])
    fill(tmp_path, spikes, first=len(vectors))
    with Reader.open(tmp_path) as reader:
        model = reader.models()[0]
        report = ann.refresh(tmp_path, reader, model)
        assert before is not None
        assert report is not None
        assert report.facts is not None
        assert report.facts.rows == len(vectors) + len(spikes)
        assert ann.verify(tmp_path, reader, model) is None
        index, _ = ann.open_index(tmp_path, model)
        asked = np.concatenate([queries, spikes[:5]])
        found = ann.nearest(reader, index, model, asked, 10)
        assert found.notice is None
        assert ann.recall_at_k(found.rows, ann.nearest(reader, None, model, asked, 10).rows) >= 0.99


def test_the_file_of_another_version_is_said_to_be_one_and_rebuilt(
    small: tuple[Path, Model, Float32Array, Float32Array],
) -> None:
    folder, model, _, queries = small
    facts = json.loads((folder / FACTS_FILE).read_bytes())
    del facts["code_error"]
    (folder / FACTS_FILE).write_text(json.dumps(facts | {"format": 1}))
    with Reader.open(folder) as reader:
        index, notice = ann.open_index(folder, model)
        assert index is None
        assert notice is not None
        assert "another version" in notice[0]
        assert ann.verify(folder, reader, model) == notice[0]
        assert ann.nearest(reader, index, model, queries, 10).notice is None
        assert ann.refresh(folder, reader, model) is not None
        assert ann.open_index(folder, model)[1] is None
        assert ann.refresh(folder, reader, model) is None


def test_one_gap_in_twenty_may_fall_short_but_not_two() -> None:
    ranks = np.zeros((600, 10), dtype=np.int64)
    ranks[0:240:20, 0] = 50  # twelve queries of the first gap lose one of ten
    assert ann._needed(ranks, 100, gaps=20) == 1
    ranks[1:240:20, 0] = 50
    assert ann._needed(ranks, 100, gaps=1) == 1
    assert ann._needed(ranks, 100, gaps=20) > 50


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_library_in_a_folder_whose_name_is_no_text_has_its_index(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    vectors, queries = clustered(600, 5, 16)
    model = fill(folder, vectors[:500])
    with Catalog.open(folder) as catalog:
        catalog.put_setting(ann.CHOICE, "lists")
    with Reader.open(folder) as reader:
        report = ann.refresh(folder, reader, model)
        assert report is not None
        assert report.facts is not None
        assert ann.verify(folder, reader, model) is None
        index, notice = ann.open_index(folder, model)
        assert notice is None
        found = ann.nearest(reader, index, model, queries, 10)
        exact = ann.nearest(reader, None, model, queries, 10)
        assert found.notice is None
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.9


def test_dropping_a_model_drops_its_index(
    small: tuple[Path, Model, Float32Array, Float32Array],
) -> None:
    folder, model, _, _ = small
    with Catalog.open(folder) as catalog:
        catalog.drop_model(model.id)
    assert not (folder / FAISS_FILE).exists()
