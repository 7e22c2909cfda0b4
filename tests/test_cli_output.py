"""stdout is data, stderr is talk."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli, draw_photo

from clipsearch.cli.hits import Format, print_hits
from clipsearch.cli.index import show_report, stronger_model_hint
from clipsearch.library import Hit, IndexReport
from clipsearch.records import PhotoFacts


@pytest.fixture
def odd_photo(tmp_path: Path) -> Path:
    """A photo whose name is markup, and no valid UTF-8."""
    folder = tmp_path / "odd"
    plain = draw_photo(tmp_path / "plain.jpg", 1)
    folder.mkdir()
    return plain.rename(folder / os.fsdecode(b"[bold]x \xff.jpg"))


def test_data_goes_to_stdout_and_talk_to_stderr(cli: Cli, photo_folder: Path) -> None:
    indexed = cli("index", photo_folder)
    assert indexed.stdout == ""
    assert "12 added" in indexed.stderr
    found = cli("query", "a red circle", "-k", 3)
    assert found.stderr == ""
    lines = [line.split("\t") for line in found.stdout.splitlines()]
    assert len(lines) == 3
    assert all(Path(path).exists() for _, path in lines)
    scores = [float(score) for score, _ in lines]
    assert scores == sorted(scores, reverse=True)


def test_every_form_tells_the_same_hits(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)

    def ask(*options: str) -> str:
        return cli("query", "a red circle", "-k", 4, *options).stdout

    paths = ask("--format", "paths").splitlines()
    assert [line.split("\t")[1] for line in ask().splitlines()] == paths
    assert ask("-0").split("\0")[:-1] == paths
    assert [hit["path"] for hit in json.loads(ask("--format", "json"))] == paths
    lines = ask("--format", "jsonl").splitlines()
    assert [json.loads(line)["path"] for line in lines] == paths
    table = csv.DictReader(io.StringIO(ask("--format", "csv")))
    assert [row["path"] for row in table] == paths
    # The columns are there too where nothing is found.
    (names,) = csv.reader(io.StringIO(ask("--format", "csv", "--after", "2099")))
    assert names == table.fieldnames


def test_a_file_of_queries_answers_each_as_if_it_were_asked_alone(
    cli: Cli, photo_folder: Path, tmp_path: Path
) -> None:
    cli("index", photo_folder)
    queries = ["a red circle", "snow:2, or so they say", "\u00e9t\u00e9", "a red circle"]
    wishes = tmp_path / "wishes.txt"
    wishes.write_text("\ufeff" + "\n\n".join(queries) + "\n", encoding="utf-8")

    def ask(*options: object) -> str:
        return cli("query", "--from", wishes, "-k", 3, *options).stdout

    alone = [
        [hit["path"] for hit in json.loads(cli("query", query, "-k", 3, "--format", "json").stdout)]
        for query in queries
    ]
    lines = [line.split("\t") for line in ask().splitlines()]
    assert [line[0] for line in lines] == [query for query in queries for _ in range(3)]
    assert [line[2] for line in lines] == [path for paths in alone for path in paths]
    for form, records in (
        ("json", json.loads(ask("--format", "json"))),
        ("jsonl", [json.loads(line) for line in ask("--format", "jsonl").splitlines()]),
    ):
        assert [record["query"] for record in records] == queries, form
        assert [[hit["path"] for hit in record["hits"]] for record in records] == alone
    rows = list(csv.DictReader(io.StringIO(ask("--format", "csv"))))
    assert [(row["query"], row["path"]) for row in rows] == [(line[0], line[2]) for line in lines]
    assert ask("--format", "paths").splitlines() == [line[2] for line in lines]
    assert ask("-0").split("\0")[:-1] == [line[2] for line in lines]


def test_a_file_of_queries_obeys_filters_and_says_what_found_nothing(
    cli: Cli, photo_folder: Path, tmp_path: Path
) -> None:
    cli("index", photo_folder)
    wishes = tmp_path / "wishes.txt"
    wishes.write_text("a circle\na glurk\na glurk again\n")
    none = cli("query", "--from", wishes, "--before", 1900, "--format", "jsonl")
    assert [json.loads(line)["hits"] for line in none.stdout.splitlines()] == [[], [], []]
    assert "3 queries without a hit" in none.stderr
    assert none.stderr.count("never met 'glurk'") == 1


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "cannot be read"),
        (b"\n  \n", [], "has no query in it"),
        (b"\xff\xfe\x00", [], "no UTF-8 text"),
        (b"a dog\n", ["a", "cat"], "takes the place of a query"),
        (b"a dog\n", ["--not", "cats"], "takes the place of a query"),
        (b"a dog\n", ["-k", "0"], "at least one hit"),
        (b"a dog\n", ["--include-self"], "holds words alone"),
        (b"a dog\n", ["-0", "--format", "json"], "leave one of the two out"),
        (b"a dog\nsunset:0\n", [], "weight"),
        (b"a dog\nsunset:nan\n", [], "weight"),
    ],
)
def test_a_file_of_queries_that_cannot_be_asked_is_wrong_usage(
    cli: Cli,
    photo_folder: Path,
    tmp_path: Path,
    content: bytes | None,
    arguments: list[str],
    message: str,
) -> None:
    cli("index", photo_folder)
    wishes = tmp_path / "wishes.txt"
    if content is not None:
        wishes.write_bytes(content)
    refused = cli("query", "--from", wishes, *arguments, check=2)
    assert message in refused.stderr
    assert refused.stdout == ""


def test_a_name_that_is_no_text_comes_out_as_it_is_on_disk(cli: Cli, odd_photo: Path) -> None:
    cli("index", odd_photo.parent)
    assert cli("query", "x", "--format", "paths").stdout == f"{odd_photo}\n"
    (hit,) = json.loads(cli("query", "x", "--format", "json").stdout)
    assert os.fsencode(hit["path"]) == os.fsencode(odd_photo)
    assert cli("query", "x", "-0").stdout == f"{odd_photo}\0"


def test_csv_is_read_as_it_was_meant_whatever_the_names(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    paths = ["a\rb.jpg", "a\nb.jpg", "a\r\nb.jpg", 'a,"b".jpg', "\rb.jpg", "plain.jpg"]
    hits = [Hit(0.5, path, 1, (), PhotoFacts(2, 3, "JPEG"), 4) for path in paths]
    print_hits(hits, format=Format.csv, nul=False)
    written = capfdbinary.readouterr().out.decode()
    assert [row["path"] for row in csv.DictReader(io.StringIO(written, newline=""))] == paths
    assert "plain.jpg,2,3,JPEG,4,,,,,\n" in written


def on_terminal(*arguments: str) -> str:
    """What the program writes when stdout and stderr are a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "300", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "clipsearch", *arguments],
        stdout=follower,
        stderr=follower,
        env=environment,
    ) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the program has ended
                break
            if not part:
                break
            written += part
        process.wait()
    os.close(leader)
    return written.decode(errors="replace")


def test_a_terminal_gets_a_table_and_file_names_are_no_markup(cli: Cli, odd_photo: Path) -> None:
    cli("index", odd_photo.parent)
    shown = on_terminal("query", "x")
    assert "score" in shown
    assert "[bold]x" in shown
    assert "320 x 240" in shown


def test_a_name_gives_no_orders_to_a_terminal(cli: Cli, tmp_path: Path) -> None:
    name = "esc\x1b[31mred \x9b31m \u202egpj.\u2067x\t.jpg"
    photo = draw_photo(tmp_path / "esc" / name, 1)
    cli("index", photo.parent)
    broken = photo.with_name("no\x1b[32m.jpg")
    broken.write_bytes(b"\xff\xd8\xff")
    shown = on_terminal("query", "x") + on_terminal("index", "-v") + on_terminal("problems")
    for order in ("\x1b[31m", "\x1b[32m", "\x9b", "\u202e", "\u2067"):
        assert order not in shown
    assert "esc\\x1b[31mred \\x9b31m \\u202egpj.\\u2067x\\t.jpg" in shown
    assert "no\\x1b[32m.jpg" in shown
    assert cli("query", "x").stdout.endswith(f"\t{photo}\n")
    assert str(photo) in on_terminal("query", "x", "--format", "paths")


def test_a_terminal_is_told_how_to_get_a_stronger_model(photo_folder: Path) -> None:
    shown = on_terminal("index", str(photo_folder))
    assert "12 added" in shown
    assert "clipsearch models pull default" in shown


def test_quiet_says_nothing_when_all_is_well(cli: Cli, photo_folder: Path) -> None:
    assert cli("index", photo_folder, "-q").stderr == ""


def test_verbose_names_each_skipped_file(cli: Cli, photo_folder: Path) -> None:
    (photo_folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert "broken.jpg" in cli("index", photo_folder, "-v").stderr


def test_a_filter_that_leaves_nothing_is_named(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    result = cli("query", "sea", "--after", "2099")
    assert result.stdout == ""
    assert "none of the 12" in result.stderr
    assert "2099" in result.stderr


def test_a_photo_that_is_alone_behind_a_filter_is_said_to_be_left_out(
    cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    alone = draw_photo(folder / "alone" / "a.jpg", 1)
    draw_photo(folder / "b.jpg", 2)
    cli("index", folder)
    result = cli("query", "--image", alone, "--in", alone.parent)
    assert result.stdout == ""
    assert f"the only one in {alone.parent} is the one you asked with" in result.stderr


def test_status_tells_what_there_is(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    shown = cli("status").stdout
    assert "12 in 12 files" in shown
    assert str(photo_folder) in shown
    state = json.loads(cli("status", "--json").stdout)
    assert state["photos"] == 12
    assert state["models"][0]["name"] == "pocket"
    assert "another pocket" not in shown


def test_status_tells_of_a_model_that_was_replaced(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    (catalog,) = Path(json.loads(cli("status", "--json").stdout)["folder"]).glob("catalog.sqlite")
    with sqlite3.connect(catalog) as connection:
        connection.execute("UPDATE model SET image_fingerprint = ?", ("0" * 32,))
    assert "another pocket now: `clipsearch index` embeds" in cli("status").stdout


def test_several_words_without_quotes_are_one_query(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    assert cli("query", "a", "red", "circle").stdout == cli("query", "a red circle").stdout


def test_what_was_removed_stays_out_and_stays_on_disk(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    result = cli("remove", photo_folder / "2023")
    assert "forgot 4 files and 4 photos" in result.stderr
    assert "8 unchanged" in cli("index").stderr
    assert len(list(photo_folder.rglob("*.jpg"))) == 12
    cli("remove", photo_folder)
    assert "the library is empty" in cli("query", "sea").stderr


@pytest.mark.skipif(os.name == "nt", reason="interrupts otherwise there")
def test_watching_picks_up_new_photos_until_interrupted(
    cli: Cli, photo_folder: Path, tmp_path: Path
) -> None:
    script = (
        "import signal, sys, clipsearch.library\nfrom clipsearch.cli.run import run\n"
        "clipsearch.library.WATCH_SECONDS = 0.1\n"
        # Whoever runs the suite in the background has it ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(run(['index', '--watch', sys.argv[1]]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, photo_folder], stderr=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stderr is not None
        try:
            assert "12 added" in watcher.stderr.readline()
            draw_photo(tmp_path / "new.jpg", 50).rename(photo_folder / "new.jpg")
            told = [watcher.stderr.readline() for _ in range(3)]
            assert "watching 1 folder; Ctrl-C ends it\n" in told
            assert any("1 added" in line for line in told)
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(timeout=60) == 0  # this is how it ends
        finally:
            watcher.kill()
    assert len(cli("query", "anything", "-k", 50).stdout.splitlines()) == 13


def test_the_report_of_index_adds_up_and_puts_first_what_can_be_mended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reasons = ["empty", "empty", "cut short", "cut short", "odd", "strange", "weird", "no extra"]
    report = IndexReport(
        model="tiny",
        added=9,
        copied=1,
        touched=2,
        embedded=9,
        encoding_seconds=1.0,
        skipped=[(f"{number}.jpg", reason) for number, reason in enumerate(reasons)],
        mendable={"no extra"},
    )
    show_report(report)
    err = capsys.readouterr().err
    assert (
        "skipped 8 files: 1 no extra; 2 empty; 2 cut short; 1 odd; and 2 for other reasons" in err
    )
    assert "9 added, 1 copy, 2 re-dated or re-tagged in" in err
    assert "photos/s" not in err
    report.embedded, report.copied, report.photos = 10, 2, 10
    show_report(report)
    err = capsys.readouterr().err
    assert "2 copies" in err
    assert "10 photos/s" in err
    assert "(about 1 minute here)" in stronger_model_hint(report)
    report.encoding_seconds = 40.0
    show_report(report)
    assert "0.2 photos/s" in capsys.readouterr().err


def test_standard_input_is_called_by_its_name(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    refused = cli("query", "--from", "-", check=2, stdin="\n")
    assert "error: standard input has no query in it" in refused.stderr


def test_a_very_long_word_is_not_repeated_whole(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    told = cli("query", "x" + 5000 * "qz").stderr
    assert "never met 'xqzqz" in told
    assert len(told) < 1000
