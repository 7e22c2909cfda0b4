"""stdout is data, stderr is talk."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli, draw_photo


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
    assert [row["path"] for row in csv.DictReader(io.StringIO(ask("--format", "csv")))] == paths


def test_a_name_that_is_no_text_comes_out_as_it_is_on_disk(cli: Cli, odd_photo: Path) -> None:
    cli("index", odd_photo.parent)
    assert cli("query", "x", "--format", "paths").stdout == f"{odd_photo}\n"
    (hit,) = json.loads(cli("query", "x", "--format", "json").stdout)
    assert os.fsencode(hit["path"]) == os.fsencode(odd_photo)
    assert cli("query", "x", "-0").stdout == f"{odd_photo}\0"


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


def test_status_tells_what_there_is(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    shown = cli("status").stdout
    assert "12 in 12 files" in shown
    assert str(photo_folder) in shown
    state = json.loads(cli("status", "--json").stdout)
    assert state["photos"] == 12
    assert state["models"][0]["name"] == "pocket"


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
        "import sys, clipsearch.library\nfrom clipsearch.cli.run import run\n"
        "clipsearch.library.WATCH_SECONDS = 0.1\n"
        "sys.exit(run(['index', '--watch', sys.argv[1]]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, photo_folder], stderr=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stderr is not None
        assert "12 added" in watcher.stderr.readline()
        draw_photo(tmp_path / "new.jpg", 50).rename(photo_folder / "new.jpg")
        told = [watcher.stderr.readline() for _ in range(2)]
        assert any("1 added" in line for line in told)
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait() == 130
    assert len(cli("query", "anything", "-k", 50).stdout.splitlines()) == 13
