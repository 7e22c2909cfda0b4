"""What a small model says of words that it never met."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import Cli

from clipsearch.cli.run import run
from clipsearch.models.presets import BY_NAME
from clipsearch.models.words import WORDS_NAME, add_words, forms, unknown_words, words_of

ROOT = Path(__file__).resolve().parent.parent
POCKET = ROOT / "clipsearch" / "models" / "pocket"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    words = ["berry", "dog", "run", "smile", "snow", "été"]
    (tmp_path / WORDS_NAME).write_bytes(b"".join(word.encode() + b"\n" for word in words))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a dog, the dog; DOG!", ["the"]),
        ("dogs' running in snow", ["in"]),
        ("berries smiled", []),
        ("the dog\u2019s \u00c9t\u00e9", ["the"]),
        ("be dogg zebra \u6d77\u6d77", ["be", "dogg", "zebra", "\u6d77\u6d77"]),
        ("snow 12:30 4x4 ...", []),
        (" 4x4 ", ["4x4"]),  # no word at all
        ("\U0001f436", ["\U0001f436"]),
        ("!!!", ["!!!"]),
        ("", []),
    ],
)
def test_words_and_their_forms_are_looked_up(model: Path, text: str, unknown: list[str]) -> None:
    assert unknown_words(model, text) == unknown


@pytest.mark.parametrize("list_of_words", [b"", b"one", b"one\n", b"\n\n"])
def test_short_lists_are_searched_to_their_ends(tmp_path: Path, list_of_words: bytes) -> None:
    (tmp_path / WORDS_NAME).write_bytes(list_of_words)
    expected = [] if b"one" in list_of_words or not list_of_words else ["one"]
    assert unknown_words(tmp_path, "one") == expected


def test_a_model_without_a_list_tells_nothing(tmp_path: Path) -> None:
    assert unknown_words(tmp_path, "glurk") == []


def test_a_short_word_is_no_ending() -> None:
    assert forms("as") == ["as"]
    assert words_of("Dog dog DOG") == ["dog"]


def test_pockets_list_is_sorted_and_has_each_of_its_words() -> None:
    words = (POCKET / WORDS_NAME).read_bytes().splitlines()
    assert words == sorted(set(words))
    assert len(words) > 50_000
    for word in words[:: len(words) // 500]:
        assert unknown_words(POCKET, word.decode()) == []


def test_pocket_knows_the_words_of_the_albums_queries() -> None:
    with (ROOT / "data" / "queries.csv").open(encoding="utf-8", newline="") as file:
        queries = [row["query"] for row in csv.DictReader(file)]
    assert [unknown_words(POCKET, query) for query in queries] == [[]] * len(queries)


def test_a_query_notes_unknown_words_each_time(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    assert cli("query", "a red circle").stderr == ""
    for _ in range(2):
        found = cli("query", "a glurk near a circle")
        assert len(found.stdout.splitlines()) == 10
        assert "never met 'glurk'" in found.stderr
        assert "hint: say it in plainer words" in found.stderr


def test_words_in_other_letters_lead_to_the_model_of_many_languages(
    photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "multilingual" in BY_NAME
    assert run(["index", str(photo_folder), "-q"]) == 0
    assert run(["query", "собака на снегу"]) == 0
    err = capsys.readouterr().err
    assert "never met 'собака'" in err
    assert "`clipsearch index --model multilingual`" in err
    assert run(["query", "a glürk"]) == 0
    assert "multilingual" not in capsys.readouterr().err


def test_a_tuned_model_knows_the_words_that_it_was_taught(
    cli: Cli, photo_folder: Path, tmp_path: Path
) -> None:
    from clipsearch.train.towers import load_towers, save_model

    towers = load_towers(POCKET, device="cpu")
    save_model(towers, towers.state(), tmp_path / "tuned", taught=["Our Glurk, asleep"])
    cli("index", photo_folder, "--model", tmp_path / "tuned")
    assert cli("query", "glurks near a circle").stderr == ""
    assert "never met 'blorp':" in cli("query", "a glurk and a blorp").stderr
    words = (tmp_path / "tuned" / WORDS_NAME).read_bytes().splitlines()
    assert words == sorted({*(POCKET / WORDS_NAME).read_bytes().splitlines(), b"glurk"})


def test_a_model_tuned_from_one_without_a_list_has_none(tmp_path: Path) -> None:
    add_words(tmp_path, ["a glurk"])
    assert not list(tmp_path.iterdir())
