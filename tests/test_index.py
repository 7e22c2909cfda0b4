"""What becomes of files: added, copied, moved, changed, removed, broken, out of reach."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_photo
from PIL import Image

from clipsearch.errors import ModelError, PhotoFolderError, UsageError
from clipsearch.library import IndexReport, Library
from clipsearch.models.encoder import LocalEncoder
from clipsearch.models.runtimes import openvino_core
from clipsearch.store.catalog import Catalog
from clipsearch.store.reader import Reader


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "library")


def summary(report: IndexReport) -> dict[str, int]:
    """The counts of a report that are not zero."""
    names = (
        *("added", "copied", "moved", "changed", "touched", "removed", "unchanged"),
        *("embedded", "re_embedded"),
    )
    counts = {name: getattr(report, name) for name in names}
    counts["skipped"] = len(report.skipped)
    return {name: count for name, count in counts.items() if count}


def test_a_second_run_over_unchanged_photos_does_nothing(
    library: Library, photo_folder: Path
) -> None:
    assert summary(library.index([photo_folder])) == {"added": 12, "embedded": 12}
    assert summary(library.index()) == {"unchanged": 12}


def test_every_photo_is_its_own_best_hit(library: Library, photo_folder: Path) -> None:
    library.index([photo_folder])
    for photo in photo_folder.rglob("*.jpg"):
        (best, *_) = library.query(image=photo, k=3, include_self=True)
        assert best.path == str(photo)
        assert best.score == pytest.approx(1, abs=2e-3)  # float16 storage


def test_one_path_or_text_stands_for_a_list_of_one(library: Library, photo_folder: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(photo_folder / "red.png")
    assert summary(library.index(str(photo_folder), exclude="*.png"))["added"] == 12
    deeper = photo_folder / "2024"
    several = library.query("a", k=2, also=["b"], away=["snow"], folders=[deeper])
    assert library.query("a", k=2, also="b", away="snow", folders=str(deeper)) == several
    photo = photo_folder / "photo00.jpg"
    assert library.query(images=photo, k=2) == library.query(images=[photo], k=2)
    (result,) = library.search_each(["a"], folders=deeper)
    assert len(result.hits) == 4
    assert library.remove(str(deeper)) == (4, 4)


def test_a_weight_is_no_word_of_a_query_among_many_either(
    library: Library, photo_folder: Path
) -> None:
    library.index([photo_folder])
    (weighted,) = library.search_each(["a lighthouse:2"], k=12)
    assert [hit.path for hit in weighted.hits] == [
        hit.path for hit in library.query("a lighthouse:2", k=12)
    ]


def test_more_hits_than_there_are_photos_are_all_photos(
    library: Library, photo_folder: Path
) -> None:
    library.index([photo_folder])
    assert len(library.query("a photo", k=10**11)) == 12


def test_a_query_photo_and_its_copies_are_left_out(library: Library, photo_folder: Path) -> None:
    photo = photo_folder / "photo00.jpg"
    shutil.copy(photo, photo_folder / "copy.jpg")
    report = library.index([photo_folder])
    assert summary(report) == {"added": 12, "copied": 1, "embedded": 12}
    hits = library.query(image=photo, k=20)
    assert len(hits) == 11
    assert not {hit.path for hit in hits} & {str(photo), str(photo_folder / "copy.jpg")}


def test_a_folder_that_holds_the_query_photo_alone_is_not_called_empty(
    library: Library, photo_folder: Path
) -> None:
    (photo_folder / "alone").mkdir()
    photo = (photo_folder / "photo00.jpg").rename(photo_folder / "alone" / "photo.jpg")
    library.index([photo_folder])
    alone = library.search(images=[photo], folders=[photo.parent])
    assert alone.hits == []
    assert alone.why_nothing.startswith(
        f"no photos: the only one in {photo.parent} is the one you asked with"
    )
    all_of_them = library.search(images=sorted(photo_folder.rglob("*.jpg")))
    assert all_of_them.why_nothing.startswith("no photos: the only ones there are those you")
    late = library.search(images=[photo], folders=[photo.parent], after="2024")
    assert late.why_nothing.startswith("no photos: none of the 12 in the library is in")


def test_a_hit_has_the_size_of_the_file_that_it_names(library: Library, photo_folder: Path) -> None:
    photo = photo_folder / "photo00.jpg"
    content = photo.read_bytes()
    comment = b"\xff\xfe\x10\x00" + bytes(0xFFE)
    tagged = photo_folder / "2023" / "tagged.jpg"
    tagged.write_bytes(content[:2] + comment + content[2:])
    assert library.index([photo_folder]).copied == 1
    for folder in (photo_folder, tagged.parent):
        hits = library.query("a photo", folder=folder, k=20)
        (hit,) = (hit for hit in hits if str(photo) in {hit.path, *hit.copies})
        assert hit.size_bytes == Path(hit.path).stat().st_size
    assert hit.path == str(tagged)


def test_moves_copies_changes_and_deletions_are_told_apart(
    library: Library, photo_folder: Path
) -> None:
    library.index([photo_folder])
    (photo_folder / "photo00.jpg").rename(photo_folder / "renamed.jpg")
    (photo_folder / "2023").rename(photo_folder / "spring")  # four photos
    shutil.copy(photo_folder / "photo03.jpg", photo_folder / "again.jpg")
    draw_photo(photo_folder / "photo06.jpg", 60)
    (photo_folder / "2024/summer/photo02.jpg").unlink()
    draw_photo(photo_folder / "new.jpg", 61)
    os.utime(photo_folder / "photo09.jpg")
    report = library.index()
    assert summary(report) == {
        "added": 1,
        "copied": 1,
        "moved": 5,
        "changed": 1,
        "touched": 1,
        "removed": 1,
        "unchanged": 4,
        "embedded": 2,
    }
    assert summary(library.index()) == {"unchanged": 13}


def test_a_broken_photo_costs_itself_only_and_is_tried_again_when_it_changes(
    library: Library, photo_folder: Path
) -> None:
    broken = photo_folder / "photo00.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    report = library.index([photo_folder])
    assert summary(report) == {"added": 11, "embedded": 11, "skipped": 1}
    assert [path for path, _ in library.problems()] == [str(broken)]
    assert summary(library.index()) == {"unchanged": 11}
    broken.write_bytes(whole)
    assert summary(library.index()) == {"added": 1, "unchanged": 11, "embedded": 1}
    assert library.problems() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_photo_that_the_model_makes_nothing_of_costs_itself_only(
    library: Library, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    white = photo_folder / "white.png"
    Image.new("RGB", (64, 64), "white").save(white)
    compile_tower = openvino_core.compile_tower

    def compiled(*arguments, **settings):
        tower = compile_tower(*arguments, **settings)

        def run(pixels: np.ndarray) -> np.ndarray:
            rows = tower(pixels)
            rows[(pixels == 255).all(axis=(1, 2, 3))] = value
            return rows

        return run

    with monkeypatch.context() as patch:
        patch.setattr(openvino_core, "compile_tower", compiled)
        report = library.index([photo_folder])
    assert summary(report) == {"added": 12, "embedded": 12, "skipped": 1}
    assert library.problems() == [(str(white), "the model gave no usable vector for it")]
    with Library.open(library.folder) as again:  # as with another precision or another model
        assert summary(again.index()) == {"added": 1, "unchanged": 12, "embedded": 1}


def test_a_photo_that_breaks_is_no_hit_any_more(library: Library, photo_folder: Path) -> None:
    library.index([photo_folder])
    (photo_folder / "photo00.jpg").write_bytes(b"\xff\xd8\xff broken")
    library.index()
    hits = library.query("a photo", k=20)
    assert str(photo_folder / "photo00.jpg") not in {hit.path for hit in hits}
    assert len(hits) == 11


def test_a_root_that_is_not_there_loses_nothing(library: Library, photo_folder: Path) -> None:
    library.index([photo_folder])
    away = photo_folder.with_name("away")
    photo_folder.rename(away)
    report = library.index()
    assert [path for path, _ in report.unavailable] == [str(photo_folder)]
    assert library.status().photos == 12
    photo_folder.mkdir()  # what an unmounted disk leaves
    assert library.index().unavailable
    photo_folder.rmdir()
    away.rename(photo_folder)
    assert summary(library.index()) == {"unchanged": 12}


def test_folders_are_remembered_and_a_folder_inside_one_means_it(
    library: Library, photo_folder: Path, tmp_path: Path
) -> None:
    library.index([photo_folder])
    draw_photo(tmp_path / "more" / "other.jpg", 70)
    library.index([tmp_path / "more"])
    draw_photo(photo_folder / "2023" / "late.jpg", 71)
    report = library.index([photo_folder / "2023"])
    assert (report.added, report.unchanged) == (1, 12)
    assert [root.path for root in library.status().roots] == [
        str(photo_folder),
        str(tmp_path / "more"),
    ]


def test_a_folder_above_a_known_one_takes_it_over(library: Library, photo_folder: Path) -> None:
    library.index([photo_folder / "2024"])
    report = library.index([photo_folder])
    assert report.embedded == 8
    assert [root.path for root in library.status().roots] == [str(photo_folder)]
    assert library.status().files == 12


def test_exclusions_are_remembered(library: Library, photo_folder: Path) -> None:
    assert library.index([photo_folder], exclude=["2023/"]).added == 8
    assert summary(library.index()) == {"unchanged": 8}
    assert library.index([photo_folder], exclude=[]).added == 4


def test_odd_names_survive_the_way_into_the_library_and_back(
    library: Library, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    names = [
        b'IMG [edit] "x".jpg',
        b"line\nbreak.jpg",
        b"not-utf8-\xff\xfe.jpg",
        "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n.jpg".encode(),
        b"-dash first.jpg",
        b"no suffix",
    ]
    for seed, name in enumerate(names):
        source = draw_photo(tmp_path / "plain.jpg", 80 + seed)
        source.rename(folder / os.fsdecode(name))
    assert library.index([folder]).added == len(names)
    found = {os.fsencode(hit.path) for hit in library.query("anything", k=20)}
    assert found == {os.fsencode(folder / os.fsdecode(name)) for name in names}


def test_no_photo_is_written_to(library: Library, photo_folder: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in photos(photo_folder)}
    library.index([photo_folder])
    library.query(image=photo_folder / "photo00.jpg")
    library.check()
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in photos(photo_folder)}
    assert after == before


def photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_stored_vectors_are_those_of_their_photos(library: Library, photo_folder: Path) -> None:
    library.index([photo_folder])
    from clipsearch.models import load_encoder
    from clipsearch.photos.decode import decode_photo

    encoder = load_encoder("pocket")
    with Reader.open(library.folder) as reader:
        model = reader.active_model()
        assert model is not None
        rows = np.arange(model.rows)
        places = reader.places(model.id, rows)
        for row, vector in zip(rows, reader.vectors(model.id, rows), strict=True):
            photo = decode_photo(places[int(row)].paths[0], side_px=encoder.preprocess.source_px)
            assert photo.image is not None
            expected = encoder.images(encoder.preprocess.pixels(photo.image)[np.newaxis])[0]
            # float16 storage: measured below 2e-4 for unit vectors of this dimension.
            assert np.abs(vector - expected).max() < 1e-3


def test_a_model_says_how_small_a_jpeg_may_be_decoded_for_it(
    tmp_path: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.models import Preprocess, import_open_clip

    config = other_model / "open_clip_config.json"
    content = json.loads(config.read_text())
    content["preprocess_cfg"]["source_px"] = 192
    config.write_text(json.dumps(content))
    photos = tmp_path / "photos"
    draw_photo(photos / "one.jpg", 1, size=(512, 384))
    draw_photo(tmp_path / "two.jpg", 2, size=(512, 384))
    sizes: list[tuple[int, int]] = []
    pixels = Preprocess.pixels

    def seen(self, image):
        sizes.append(image.size)
        return pixels(self, image)

    monkeypatch.setattr(Preprocess, "pixels", seen)
    with Library.open(tmp_path / "library", threads=1, precision="fp32") as library:
        library.index([photos], model=str(other_model))
        library.query(image=tmp_path / "two.jpg")
    assert sizes == [(256, 192)] * 2
    import_open_clip().create_model(f"local-dir:{other_model}")  # which knows no such word


def test_a_switch_of_models_leaves_the_old_one_answering_until_it_is_complete(
    library: Library, photo_folder: Path, other_model: Path
) -> None:
    library.index([photo_folder])
    lost = photo_folder.with_name("away")
    photo_folder.rename(lost)
    report = library.index(model=str(other_model))
    message, hint = report.warnings[0]
    assert "pocket still answers" in message
    assert f"`clipsearch index --model {other_model}`" in (hint or "")
    assert (report.photos, report.model) == (12, "pocket")
    assert [model.name for model in library.status().models if model.active] == ["pocket"]
    lost.rename(photo_folder)
    report = library.index(model=str(other_model))
    assert (report.re_embedded, report.embedded) == (12, 12)
    assert (report.photos, report.model) == (12, str(other_model))
    active = [model.name for model in library.status().models if model.active]
    assert active == [str(other_model)]
    assert summary(library.index()) == {"unchanged": 12}
    library.compact()
    assert [model.name for model in library.status().models] == [str(other_model)]
    assert len(library.query("a photo", k=50)) == 12


def test_new_photos_of_an_unfinished_switch_are_said_not_to_be_found_yet(
    library: Library, photo_folder: Path, other_model: Path, tmp_path: Path
) -> None:
    library.index([photo_folder])
    photo_folder.rename(tmp_path / "away")
    new = draw_photo(tmp_path / "new" / "new.jpg", 99)
    report = library.index([new.parent], model=str(other_model))
    assert (report.photos, report.model) == (12, "pocket")
    message, hint = report.warnings[1]
    assert message.startswith("1 photo has no vector of pocket and cannot be found")
    assert "`clipsearch index`" in (hint or "")
    assert library.index().photos == 13
    assert str(new) in {hit.path for hit in library.query("a photo", k=50)}


def made_with_an_older_model(library: Library) -> None:
    """As if the program, or the model's directory, had been renewed since the last run."""
    with sqlite3.connect(library.folder / "catalog.sqlite") as catalog:
        catalog.execute("UPDATE model SET image_fingerprint = ?", ("0" * 32,))


def test_a_new_release_of_pocket_embeds_everything_again(
    library: Library, photo_folder: Path
) -> None:
    library.index([photo_folder])
    made_with_an_older_model(library)
    with Library.open(library.folder) as renewed:
        with pytest.raises(ModelError, match="has changed") as refused:
            renewed.query("a photo")
        assert "`clipsearch index`" in str(refused.value.hint)
        assert [model.replaced for model in renewed.status().models] == [True]
        report = renewed.index()
        assert report.re_embedded == 12
        assert "the new pocket answers" in report.warnings[0][0]
        assert [model.replaced for model in renewed.status().models if model.active] == [False]
        assert len(renewed.query("a photo", k=50)) == 12


def test_what_cannot_be_read_for_a_new_release_is_said_and_comes_later(
    library: Library, photo_folder: Path
) -> None:
    library.index([photo_folder])
    made_with_an_older_model(library)
    lost = photo_folder.with_name("away")
    photo_folder.rename(lost)
    report = library.index()
    assert "12 photos have no vector of the new pocket" in report.warnings[0][0]
    assert report.photos == 0
    lost.rename(photo_folder)
    assert library.index().re_embedded == 12
    assert len(library.query("a photo", k=50)) == 12


def test_a_directory_that_holds_another_model_is_not_taken_unasked(
    library: Library, photo_folder: Path, other_model: Path
) -> None:
    library.index([photo_folder], model=str(other_model))
    made_with_an_older_model(library)
    with pytest.raises(ModelError, match="no longer the one"):
        library.index()
    assert library.index(model=str(other_model)).re_embedded == 12


def pocket_at(folder: Path) -> Path:
    """A copy of pocket, as a model that was fine-tuned into this directory."""
    import clipsearch.models

    return Path(shutil.copytree(Path(clipsearch.models.__file__).parent / "pocket", folder))


def put_in_its_place(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def test_a_model_replaced_under_an_open_library_is_read_again(
    library: Library, photo_folder: Path, other_model: Path, tmp_path: Path
) -> None:
    folder = pocket_at(tmp_path / "tuned")
    library.index([photo_folder], model=str(folder))
    with Library.open(library.folder) as watching:
        watching.index()  # nothing new: the model has a name, its weights are not read yet
        put_in_its_place(folder, other_model)
        draw_photo(photo_folder / "new.jpg", 61)
        with pytest.raises(ModelError, match="no longer the one"):
            watching.index()
        assert watching.index(model=str(folder)).embedded == 13
        assert [(model.photos, model.active) for model in watching.status().models] == [
            (12, False),
            (13, True),
        ]


def test_a_model_replaced_while_it_is_read_gives_no_vectors(
    library: Library,
    photo_folder: Path,
    other_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = pocket_at(tmp_path / "tuned")
    add_model = Catalog.add_model

    def replaced(*arguments):
        row = add_model(*arguments)  # under the fingerprint of what is there so far
        put_in_its_place(folder, other_model)
        return row

    monkeypatch.setattr(Catalog, "add_model", replaced)
    with pytest.raises(ModelError, match="replaced"):
        library.index([photo_folder], model=str(folder))
    assert [model.photos for model in library.status().models] == [0]


def test_words_asked_before_are_not_answered_by_a_text_tower_that_was_retrained(
    library: Library, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = pocket_at(tmp_path / "tuned")
    library.index([photo_folder], model=str(folder))
    before = scores(library)
    with monkeypatch.context() as patch:  # asked again, the model is not needed
        patch.delattr(LocalEncoder, "texts")
        assert scores(library) == before
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["text_projection"] = np.ascontiguousarray(weights["text_projection"][::-1])
    save_file(weights, folder / "open_clip_model.safetensors")
    with Library.open(library.folder) as later:
        assert scores(later) != before
        (uncached,) = later.search_each(["a photo"], k=12)
        assert scores(later) == pytest.approx([hit.score for hit in uncached.hits], abs=1e-5)


def scores(library: Library) -> list[float]:
    return [hit.score for hit in library.query("a photo", k=12)]


@pytest.mark.parametrize("what", ["missing", "file"])
def test_what_is_no_folder_is_one_clear_error(library: Library, tmp_path: Path, what: str) -> None:
    path = tmp_path / "place"
    if what == "file":
        path.write_text("x")
    with pytest.raises(PhotoFolderError, match="place"):
        library.index([path])
    assert library.status().roots == []


def test_no_folder_at_all_is_wrong_usage(library: Library) -> None:
    with pytest.raises(UsageError, match="no folder"):
        library.index()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_model_directory_whose_name_is_no_text_is_wrong_usage(
    library: Library, photo_folder: Path, other_model: Path
) -> None:
    odd = other_model.rename(other_model.with_name(os.fsdecode(b"mod\xe8le")))
    with pytest.raises(UsageError, match="not UTF-8"):
        library.index([photo_folder], model=str(odd))


def test_an_empty_folder_is_remembered(library: Library, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = library.index([tmp_path / "empty"])
    assert summary(report) == {}
    Image.new("RGB", (40, 30), "red").save(tmp_path / "empty" / "first.png")
    assert library.index().added == 1


def test_what_an_extra_or_a_limit_would_mend_is_tried_again(
    library: Library, photo_folder: Path
) -> None:
    report = library.index([photo_folder], max_megapixels=0.05)
    assert len(report.skipped) == 12
    assert "megapixels" in report.skipped[0][1]
    assert summary(library.index()) == {"added": 12, "embedded": 12}
    assert library.problems() == []
