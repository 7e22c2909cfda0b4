"""What goes wrong is one clear message with the right exit status, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Cli, draw_photo

from clipsearch.cli.run import run


def library_of(tmp_path: Path) -> Path:
    return tmp_path / "home" / "library"


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("query sea -k 0", 2, "at least one hit"),
        ("query sea -k many", 2, "integer"),
        ("query", 2, "nothing to look for"),
        ("query sea --after yesterday", 2, "not a date"),
        ("query sea --format picture", 2, "picture"),
        ("query sea --in /nowhere", 2, "no photo there"),
        ("query --image /nowhere.jpg", 1, "hint: see if the name is right"),
        ("query snow:0", 2, "weight"),
        ("query snow:-1", 2, "weight"),
        ("query sea -0 --format json", 2, "leave one of the two out"),
        ("query sea -0 --format=csv", 2, "leave one of the two out"),
        ("no-such-command", 2, "no-such-command"),
        ("index /nowhere", 1, "there is no folder"),
        ("index --model no-such-model", 1, "no-such-model"),
        ("index --model default", 4, "ViT-B-32-256"),
        ("index --threads 0", 2, "threads"),
        ("index --device quantum", 2, "quantum"),
        ("--precision int9 index", 2, "int9"),
        ("remove /nowhere", 1, "knows nothing"),
        ("models remove pocket", 1, "pocket"),
        ("models remove foo", 1, "`clipsearch models` lists"),
        ("models import /nowhere --name foo", 1, "hint: name a folder"),
        ("finetune p.csv --from-scratch ViT-B-32 --model pocket", 2, "leave one of the two out"),
        ("finetune p.csv --resume --output /nowhere", 2, "no run to go on with"),
        ("finetune p.csv --seed -1", 2, "--seed must be"),
        ("finetune p.csv --batch-size 1", 2, "--batch-size must be"),
        ("models export nothing /tmp/nothing", 1, "nothing"),
    ],
)
def test_a_mistake_is_one_message_and_its_exit_status(
    capsys: pytest.CaptureFixture[str],
    photo_folder: Path,
    line: str,
    status: int,
    words: str,
) -> None:
    assert run(["index", str(photo_folder), "-q"]) == 0
    capsys.readouterr()
    assert run(line.split()) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "line",
    [
        "index",
        "index --model",
        "remove",
        "query sea --in",
        "query sea --camera",
        "query --image",
        "query --from",
        "finetune",
        "finetune pairs.csv --output",
        "evaluate",
        "models export pocket",
        "status --library",
    ],
)
def test_an_empty_name_is_not_taken_for_the_folder_one_stands_in(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert run([*line.split(), ""]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "it is empty" in err


def test_without_a_library_the_message_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in (["query", "sea"], ["status"], ["check"], ["problems"], ["compact"]):
        assert run(command) == 1
        err = capsys.readouterr().err
        assert "there is no library yet" in err
        assert "clipsearch index" in err


def test_a_place_that_cannot_hold_a_library_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str], photo_folder: Path
) -> None:
    place = photo_folder / "photo00.jpg"
    assert run(["index", str(photo_folder), "--library", str(place)]) == 1
    assert f"cannot keep a library in {place}" in capsys.readouterr().err


def png_of_size(path: Path, width: int, height: int) -> None:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def test_bad_files_are_named_with_their_reasons_and_cost_nothing_else(
    cli: Cli, photo_folder: Path
) -> None:
    (photo_folder / "empty.jpg").touch()
    (photo_folder / "words.jpg").write_text("these are words")
    png_of_size(photo_folder / "huge.png", 65_000, 65_000)
    whole = (photo_folder / "photo00.jpg").read_bytes()
    (photo_folder / "short.jpg").write_bytes(whole[: len(whole) // 2])
    if hasattr(os, "mkfifo"):
        os.mkfifo(photo_folder / "pipe.jpg")
    result = cli("index", photo_folder)
    assert "12 added" in result.stderr
    assert "skipped 4 files" in result.stderr
    reasons = dict(line.split("\t") for line in cli("problems").stdout.splitlines())
    reasons = {Path(path).name: reason for path, reason in reasons.items()}
    assert set(reasons) == {"empty.jpg", "words.jpg", "huge.png", "short.jpg"}
    assert "empty" in reasons["empty.jpg"]
    assert "no picture" in reasons["words.jpg"]
    assert "megapixels" in reasons["huge.png"]
    assert "cut short" in reasons["short.jpg"]


def test_a_query_that_is_a_file_is_doubted_and_answered(
    photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(photo_folder), "-q"]) == 0
    photo = str(photo_folder / "photo00.jpg")
    assert run(["query", photo]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 10
    assert f"warning: {photo} is a file" in err
    assert "hint: did you mean --image?" in err
    assert run(["query", "sea. " + 300 * "long "]) == 0
    assert "is a file" not in capsys.readouterr().err


def test_a_query_image_that_is_too_large_is_refused_with_a_hint_that_helps(
    photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(photo_folder), "-q"]) == 0
    png_of_size(photo_folder / "huge.png", 65_000, 65_000)
    assert run(["query", "--image", str(photo_folder / "huge.png")]) == 1
    assert "`clipsearch index --max-megapixels N`" in capsys.readouterr().err
    (photo_folder / "short.jpg").write_bytes((photo_folder / "photo00.jpg").read_bytes()[:2000])
    assert run(["query", "--image", str(photo_folder / "short.jpg")]) == 1
    assert "hint: give another photo, or a whole copy" in capsys.readouterr().err


def test_a_library_of_a_newer_version_is_left_alone(
    cli: Cli, photo_folder: Path, tmp_path: Path
) -> None:
    cli("index", photo_folder)
    catalog = library_of(tmp_path) / "catalog.sqlite"
    with sqlite3.connect(catalog) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = catalog.read_bytes()
    for command in (["query", "sea"], ["index"], ["check", "--repair"], ["status"]):
        result = cli(*command, check=3)
        assert "newer" in result.stderr
    assert catalog.read_bytes() == before


def test_a_damaged_catalogue_is_said_to_be_so(cli: Cli, photo_folder: Path, tmp_path: Path) -> None:
    cli("index", photo_folder)
    (library_of(tmp_path) / "catalog.sqlite").write_bytes(b"no database" * 1000)
    for command in (["query", "sea"], ["index"], ["status"]):
        assert "damaged" in cli(*command, check=3).stderr


def test_a_second_writer_is_told_who_holds_the_lock(
    cli: Cli, photo_folder: Path, tmp_path: Path
) -> None:
    cli("index", photo_folder)
    script = (
        "import sys\nfrom pathlib import Path\nfrom clipsearch.store.lock import writer_lock\n"
        f"with writer_lock(Path({str(library_of(tmp_path))!r})):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        refused = cli("index", check=3)
        assert f"pid {holder.pid}" in refused.stderr
        assert "--wait" in refused.stderr
        assert len(cli("query", "sea").stdout.splitlines()) == 10  # readers never wait
        holder.stdin.close()
        holder.wait()
    cli("index", "--wait")


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_a_full_disk_loses_nothing(cli: Cli, photo_folder: Path) -> None:
    cli("index", photo_folder)
    for seed in range(100, 140):
        draw_photo(photo_folder / "more" / f"{seed}.jpg", seed)
    # A limit on the size of any file written stands in for a full disk: the same write fails.
    script = (
        "import resource, signal\nfrom clipsearch.cli.run import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "raise SystemExit(run(['index']))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    assert "full" in result.stderr or "disk" in result.stderr
    assert "Traceback" not in result.stderr
    cli("check")
    assert "40 added" in cli("index").stderr


def test_damage_is_told_then_mended(cli: Cli, photo_folder: Path, tmp_path: Path) -> None:
    cli("index", photo_folder)
    with (
        closing(sqlite3.connect(library_of(tmp_path) / "catalog.sqlite")) as connection,
        connection,
    ):
        connection.execute("UPDATE embedding SET vector = zeroblob(3) WHERE row = 2")
    told = cli("check", check=1)
    assert "hint: `clipsearch check --repair`" in told.stderr
    mended = cli("check", "--repair")
    assert mended.stdout == told.stdout
    assert "mended" in mended.stderr
    assert "hint" not in mended.stderr
    assert "1 re-embedded" in cli("index").stderr
    assert "sound" in cli("check").stderr


@pytest.mark.skipif(os.name == "nt", reason="rights are another thing there")
def test_what_may_not_be_read_is_said_and_its_photos_are_kept(
    photo_folder: Path, tmp_path: Path
) -> None:
    # Root may read everything: as root, the same process goes on as nobody.
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom clipsearch.cli.run import run\n"
        "folder, closed = map(Path, sys.argv[1:])\n"
        "def index(place):\n"
        "    status = run(['index', str(place)])\n"
        "    print('status', status, file=sys.stderr)\n"
        "index(folder)\n"
        "(folder / '2023').chmod(0)\n"
        "(folder / 'photo00.jpg').chmod(0)\n"
        "os.utime(folder / 'photo00.jpg', (1, 1))\n"
        "if os.geteuid() == 0:\n"
        "    for file in Path(os.environ['CLIPSEARCH_LIBRARY']).rglob('*'): file.chmod(0o777)\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "index(folder)\n"
        "index(closed)\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    library_of(tmp_path).mkdir(parents=True)
    if os.geteuid() == 0:
        for place in (tmp_path.parent.parent, tmp_path.parent, tmp_path, library_of(tmp_path)):
            place.chmod(0o777)
        (tmp_path / "home").chmod(0o777)
        script = "import os\nos.umask(0)\n" + script
    else:
        closed.chmod(0)
    result = subprocess.run(
        [sys.executable, "-c", script, photo_folder, closed], capture_output=True, text=True
    )
    (photo_folder / "2023").chmod(0o755)
    closed.chmod(0o755)
    first, second, third, _ = result.stderr.split("status ")
    assert "12 added" in first
    assert second.startswith("0\n")
    assert f"{photo_folder / '2023'}: no permission to read it; what it held is kept" in second
    assert "skipped 1 file: 1 no permission to read it" in second
    assert "12 photos can be searched" in second
    assert third.startswith("0\n")
    assert f"error: cannot list {closed}: permission denied" in third
    assert result.stderr.endswith("status 1\n")


def test_a_library_that_lost_its_model_says_so(
    cli: Cli, photo_folder: Path, other_model: Path
) -> None:
    cli("index", photo_folder, "--model", other_model)
    shutil.rmtree(other_model)
    for command in (["query", "sea"], ["index"]):
        result = cli(*command, check=1)
        assert str(other_model) in result.stderr
        assert "hint: " in result.stderr
        assert "`clipsearch index --model DIR`" in result.stderr


def test_a_library_whose_model_was_removed_says_so(
    photo_folder: Path, other_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "import", str(other_model), "--name", "mine"]) == 0
    assert run(["index", str(photo_folder), "--model", "mine", "-q"]) == 0
    assert run(["models", "remove", "mine"]) == 0
    capsys.readouterr()
    assert run(["query", "sea"]) == 1
    err = capsys.readouterr().err
    assert "the library was made with the model mine, which is not on this machine" in err
    assert "`clipsearch models import DIR --name mine`" in err
    assert "`clipsearch index --model pocket`" in err


def test_a_closed_pipe_is_a_quiet_success(photo_folder: Path, cli: Cli, tmp_path: Path) -> None:
    cli("index", photo_folder)
    wishes = tmp_path / "wishes.txt"
    wishes.write_text("a red circle\na blue square\n")
    for line in ("query sea --format json | head -c 1", f"query --from {wishes} | true",
                 "status | true", "--help | true"):  # fmt: skip
        result = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {sys.executable} -m clipsearch {line}"],
            capture_output=True,
            text=True,
        )
        assert result.stderr == "", line
        assert result.returncode == 0, line


@pytest.mark.parametrize("unbuffered", ["", "1"])  # empty: as if it were not set
def test_output_that_cannot_be_written_is_said_so(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    assert run(["index", str(photo_folder), "-q"]) == 0
    lines = ["query sea >&-", "query sea --format json >&-"]
    if Path("/dev/full").exists():
        lines += ["query sea >/dev/full", "status >/dev/full", "--help >/dev/full"]
    for line in lines:
        result = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m clipsearch {line}"], capture_output=True, text=True
        )
        assert result.stderr.startswith("error: the output could not be written"), line
        assert "Traceback" not in result.stderr
        assert result.returncode == 1, line


@pytest.mark.skipif(os.name == "nt", reason="rights are another thing there")
def test_a_library_that_nobody_may_look_for_is_said_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object, **__: object) -> None:  # root may look everywhere
        raise PermissionError(13, "Permission denied")

    place = tmp_path / "closed" / "library"
    monkeypatch.setattr(Path, "exists", refused)
    assert run(["query", "sea", "--library", str(place)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: cannot look for a library in {place} (permission denied)\n")


def test_an_interruption_ends_with_130(
    photo_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.library import Library

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert run(["index", str(photo_folder), "-q"]) == 0
    monkeypatch.setattr(Library, "index", interrupted)
    for line in (["index"], ["index", "--watch"]):
        assert run(line) == 130
        err = capsys.readouterr().err
        assert "error: interrupted" in err
        assert "the same command goes on there" in err
    monkeypatch.setattr(Library, "check", interrupted)
    assert run(["check"]) == 130
    assert "hint" not in capsys.readouterr().err


def test_an_interruption_of_the_goodbye_changes_nothing() -> None:
    script = (
        "import os, signal, sys\nimport clipsearch.cli.run as program\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupt(*_): os.kill(os.getpid(), signal.SIGINT)\n"
        "say = program.error_line\n"
        "program._dispatch = interrupt\n"
        "program.error_line = lambda *words: (interrupt(), say(*words))\n"
        "sys.exit(program.run())\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr == "error: interrupted\n"


def test_a_folder_that_went_away_gets_advice_for_either_case(
    photo_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["index", str(photo_folder), "-q"]) == 0
    photo_folder.rename(tmp_path / "renamed")
    assert run(["index"]) == 0
    err = capsys.readouterr().err
    assert "connect it and index again" in err
    assert f"`clipsearch remove {photo_folder}`" in err
    assert run(["index", str(tmp_path / "renamed"), "-q"]) == 0
    assert run(["remove", str(photo_folder)]) == 0
    capsys.readouterr()
    assert run(["index"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_an_interruption_ends_a_watch_quietly(
    photo_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.library import Library

    def interrupted(_: Library) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Library, "wait_for_changes", interrupted)
    assert run(["index", str(photo_folder), "--watch"]) == 0
    assert "interrupted" not in capsys.readouterr().err


def test_an_interrupted_tuning_says_how_to_resume_if_it_can(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from clipsearch.library import training

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "finetune", interrupted)
    line = ["finetune", "pairs.csv", "--output", str(tmp_path)]
    assert run(line) == 130
    assert "hint" not in capsys.readouterr().err
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "last.safetensors").touch()
    assert run(line) == 130
    assert "`--resume`" in capsys.readouterr().err
