"""`clipsearch finetune` and `clipsearch evaluate` as their users run them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Cli, draw_photo
from tiny_training import tiny_model, tiny_pairs

from clipsearch.cli.finetune import _default_output
from clipsearch.errors import LibraryLocked
from clipsearch.library import Library, training
from clipsearch.store.lock import writer_lock

OPTIONS = ("--learning-rate", "3e-3", "--epochs", "6", "--batch-size", "24", "--anchor", "0")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return tiny_pairs(tmp_path / "photos", 96)


def test_a_better_model_is_put_to_work(cli: Cli, base: Path, pairs: Path, tmp_path: Path) -> None:
    """Index, tune the words only, and search with the result: no photo is embedded again."""
    cli("index", pairs.parent, "--model", base)
    output = tmp_path / "runs" / "mine"
    done = cli("finetune", pairs, *OPTIONS, "--output", output, "--apply", "--format", "json")
    report = json.loads(done.stdout)
    assert report["promoted"]
    assert report["method"] == "text"
    assert report["keeps_image_vectors"]
    assert report["drift"]["prompts"] == 200
    assert "step 1/18" in done.stderr
    assert "is searched with" in done.stderr
    models = json.loads(cli("status", "--json").stdout)["models"]
    assert [model["name"] for model in models if model["active"]] == [str(output)]

    figures = cli(
        "evaluate", pairs, "--model", base, "--model", output, "--index", "--format", "json"
    )
    before, after = json.loads(figures.stdout)["figures"]
    assert after["metrics"]["text_to_image"]["mean_reciprocal_rank"] > (
        2 * before["metrics"]["text_to_image"]["mean_reciprocal_rank"]
    )
    assert json.loads(figures.stdout)["index_recall_at_10"] is None
    # 19 photos of 96 only judged; the base model was taught with none.
    assert (before["taught_photos"], after["taught_photos"]) == (0, 77)
    assert f"warning: {output} was taught with 77 of these 96 photos" in figures.stderr
    assert figures.stderr.count("was taught with") == 1


def test_a_better_model_waits_for_the_photos_that_are_away(
    cli: Cli, base: Path, pairs: Path, tmp_path: Path
) -> None:
    away = draw_photo(tmp_path / "away" / "a.jpg", 1).parent
    cli("index", pairs.parent, away, "--model", base)
    away.rename(tmp_path / "gone")
    method = ("--method", "full", "--output", tmp_path / "run")
    done = cli("finetune", pairs, *OPTIONS, *method, "--apply")
    assert "is searched with" not in done.stderr
    assert f"{away}: it is not there now; its photos are kept" in done.stderr
    assert f"{base} still answers: 1 photo has no vector of" in done.stderr
    assert f"`clipsearch index --model {tmp_path / 'run'}`" in done.stderr
    assert f"97 photos can be searched with {base}" in done.stderr


def test_a_locked_library_is_told_how_to_use_the_finished_run(
    base: Path, photo_folder: Path, tmp_path: Path
) -> None:
    report = SimpleNamespace(output=base)
    with Library.open(tmp_path / "library") as library:
        library.index([photo_folder], model=str(base))
        with writer_lock(library.folder), pytest.raises(LibraryLocked) as caught:
            training.apply(library, report)
    assert "another clipsearch" in str(caught.value)
    assert f"`clipsearch index --model {base}`" in (caught.value.hint or "")
    assert "--wait" not in (caught.value.hint or "")


def test_captions_in_the_library_are_taken_from_what_is_not_excluded_and_there(
    cli: Cli, base: Path, tmp_path: Path
) -> None:
    for folder in ("album", "album/Private", "linked", "away"):
        place = tmp_path / folder
        captions = tiny_pairs(place, 24, seed=len(folder)).read_text().splitlines()[1:]
        for name, caption in (line.split(",") for line in captions):
            (place / name).with_suffix(".txt").write_text(f"{caption} {folder}")
    (tmp_path / "album" / "link").symlink_to(tmp_path / "linked")
    album = ("index", tmp_path / "album", "--exclude", "Private/", "--follow-links")
    cli(*album, "--model", base)
    cli("index", tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "gone")
    done = cli(
        "finetune", *OPTIONS, "--epochs", "1", "--output", tmp_path / "run", "--format", "json"
    )
    assert "48 photos with 48 captions" in done.stderr
    assert f"warning: {tmp_path / 'away'}: it is not there now; its photos" in done.stderr
    assert json.loads(done.stdout)["drift"]["photos"] == 48


def test_figures_in_a_pipe_say_what_they_are(
    cli: Cli, base: Path, photo_folder: Path, tmp_path: Path
) -> None:
    pairs = tiny_pairs(tmp_path / "few", 24)
    output = tmp_path / "run"
    for words, heading in (
        (("finetune", pairs, "--model", base, "--epochs", "1", "--output", output),
         "figure\tbase\ttuned\tchange"),
        (("evaluate", pairs, "--model", base, "--model", output), f"figure\t{base}\t{output}"),
        (("models",), "name\tmodel\tsize\tlicence\tR@1 Flickr30k / COCO\there"),
    ):  # fmt: skip
        lines = cli(*words).stdout.splitlines()
        assert lines[0] == heading
        assert len({line.count("\t") for line in lines}) == 1
    cli("index", photo_folder)
    assert len(cli("query", "a ball", "-k", "3").stdout.splitlines()) == 3


def test_captions_are_not_missed_where_all_folders_are_away(
    cli: Cli, base: Path, photo_folder: Path, tmp_path: Path
) -> None:
    cli("index", photo_folder, "--model", base)
    photo_folder.rename(tmp_path / "gone")
    done = cli("finetune", "--output", tmp_path / "run", check=1)
    assert f"none of the library's folders can be read: {photo_folder}: it is not" in done.stderr
    assert "hint: connect the disk" in done.stderr
    assert "carries a caption" not in done.stderr


def test_a_run_that_is_given_no_place_is_named_after_its_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "album").mkdir()
    monkeypatch.chdir(tmp_path / "album")
    for pairs, name in (
        (None, "library"),
        ("my.pairs.csv", "my"),
        ("shards/{000..063}.tar", "shards"),
        ("shards/train-{00..11}.tar", "train"),
        (".", "album"),
        ("..", tmp_path.name),
        ("/", "pairs"),
    ):
        assert _default_output(pairs) == Path("runs", name)


def test_mistakes_get_one_clear_message(cli: Cli, base: Path, pairs: Path, tmp_path: Path) -> None:
    table = tmp_path / "wrong.csv"
    table.write_text("photo_name,words\na.jpg,something\n")
    for words, status, message, hint in (
        (("finetune", table, "--model", base), 1, "no column names the photo", "filepath,caption"),
        (("finetune", "--model", base), 1, "no pairs were named", "filepath,caption"),
        (
            ("finetune", pairs, "--model", base, "--batch-size", "1"),
            2,
            "at least 2",
            "batch of one",
        ),
        (("evaluate",), 2, "nothing to evaluate", "--classes"),
        (("evaluate", "--index"), 1, "there is no library", "clipsearch index"),
    ):
        done = cli(*words, check=status)
        assert message in done.stderr
        assert hint in done.stderr
        assert not done.stdout
