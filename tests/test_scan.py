"""Walking a folder: what is found, what is passed over, and what a failed walk leaves known."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import PhotoFolderError, UsageError
from clipsearch.photos.scan import SYSTEM_FOLDERS, Exclusions, Scan, scan_folder

needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file names and links")


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(scan: Scan) -> list[str]:
    return [file.relative_path for folder in scan for file in folder.files]


def test_every_folder_comes_once_depth_first_and_sorted(tmp_path: Path) -> None:
    put(tmp_path, "b.jpg", "a.jpg", "z/1.jpg", "m/2.jpg", "m/k/3.jpg", "m0/4.jpg")
    (tmp_path / "empty").mkdir()
    scan = scan_folder(tmp_path)
    assert not scan.complete
    found = [(folder.relative_path, [f.relative_path for f in folder.files]) for folder in scan]
    assert found == [
        ("", ["a.jpg", "b.jpg"]),
        ("empty", []),
        ("m", ["m/2.jpg"]),
        ("m/k", ["m/k/3.jpg"]),
        ("m0", ["m0/4.jpg"]),
        ("z", ["z/1.jpg"]),
    ]
    assert scan.complete
    assert scan.unreadable == []


def test_a_file_is_described_by_its_stat(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "a.jpg", ns=(0, 1_234_567_890_123_456_789))
    (file,) = next(iter(scan_folder(tmp_path))).files
    on_disk = (tmp_path / "a.jpg").stat()
    assert file == ("a.jpg", 5, on_disk.st_mtime_ns, on_disk.st_ino, on_disk.st_dev)


def test_hidden_and_system_folders_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "ok.jpg", ".hidden.jpg", "._ok.jpg", ".git/a.jpg", ".thumbnails/b.jpg")
    put(tmp_path, *(f"{name}/a.jpg" for name in SYSTEM_FOLDERS))
    put(tmp_path, "@eaDir/b.jpg", "System Volume Information/c.jpg", "deep/@eaDir/d.jpg")
    assert names(scan_folder(tmp_path)) == ["ok.jpg"]


def test_a_hidden_root_is_walked_when_asked_for(tmp_path: Path) -> None:
    put(tmp_path, ".photos/a.jpg")
    assert names(scan_folder(tmp_path / ".photos")) == ["a.jpg"]


def test_only_certain_suffixes_are_judged_by_name(tmp_path: Path) -> None:
    put(tmp_path, "a.TXT", "b.mp4", "c.py", "d.xmp", "e", "f.jpg", "g.weird", "h.tar.gz", "i.HEIC")
    assert names(scan_folder(tmp_path)) == ["e", "f.jpg", "g.weird", "i.HEIC"]


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("*.png", ["2019/raw/a.jpg", "2019/x.jpg", "Private/p.jpg", "b.jpg"]),
        ("Private/", ["2019/raw/a.jpg", "2019/x.jpg", "b.jpg", "c.png"]),
        ("/2019/raw", ["2019/x.jpg", "Private/p.jpg", "b.jpg", "c.png"]),
        ("**/x.jpg", ["2019/raw/a.jpg", "Private/p.jpg", "b.jpg", "c.png"]),
        ("raw/**", ["2019/raw/a.jpg", "2019/x.jpg", "Private/p.jpg", "b.jpg", "c.png"]),
        ("[bc].*", ["2019/raw/a.jpg", "2019/x.jpg", "Private/p.jpg"]),
    ],
)
def test_exclude_speaks_gitignore_seen_from_the_root(
    tmp_path: Path, glob: str, left: list[str]
) -> None:
    put(tmp_path, "b.jpg", "c.png", "2019/raw/a.jpg", "2019/x.jpg", "Private/p.jpg")
    assert sorted(names(scan_folder(tmp_path, exclude=[glob]))) == left


def test_exclude_takes_a_full_path_below_the_root(tmp_path: Path) -> None:
    put(tmp_path, "private/a.jpg", "public/private/b.jpg")
    assert names(scan_folder(tmp_path, exclude=[str(tmp_path / "private")])) == [
        "public/private/b.jpg"
    ]


def test_exclude_takes_names_that_gitignore_would_read_as_signs(tmp_path: Path) -> None:
    put(tmp_path, "#old/a.jpg", "!new/b.jpg", "c.jpg")
    assert names(scan_folder(tmp_path, exclude=["#old", "!new"])) == ["c.jpg"]


@pytest.mark.parametrize("glob", ["", "/", "[z-a]", "a\\"])
def test_a_bad_glob_is_wrong_usage(tmp_path: Path, glob: str) -> None:
    with pytest.raises(UsageError, match="not a glob"):
        scan_folder(tmp_path, exclude=["*.png", glob])


def test_ignore_files_hold_for_their_folder_and_deeper_ones_win(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.jpg", "in/b.png", "in/keep.png", "in/deep/c.png", "out/d.png")
    put(tmp_path, "in/drop/e.jpg", "drop/f.jpg")
    (tmp_path / ".clipsearchignore").write_text("# no screenshots\n*.png\n")
    (tmp_path / "in/.clipsearchignore").write_text("!keep.png\n/drop/\n")
    (tmp_path / "in/deep/.clipsearchignore").write_bytes(b"\xef\xbb\xbf!*.png\r\n")
    assert names(scan_folder(tmp_path)) == [
        "a.jpg",
        "drop/f.jpg",
        "in/keep.png",
        "in/deep/c.png",
    ]


def test_exclude_overrules_what_an_ignore_file_takes_back(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.jpg")
    (tmp_path / ".clipsearchignore").write_text("!a.png\n")
    assert names(scan_folder(tmp_path, exclude=["*.png"])) == ["b.jpg"]


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git itself")
def test_ignore_rules_are_those_of_git(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b/a.jpg", "b/c/a.jpg", "b/c/d.jpg", "x y.jpg", "#h.jpg", "e/f/g.jpg")
    put(tmp_path, "b/build/k.jpg", "build", "e/temp1/l.jpg", "e/tempA/m.jpg", "n/b/c/o.jpg")
    rules = {
        "": "# comment\n\n/a.jpg\nbuild/\ntemp[0-9]\nb/c\n!b/c/d.jpg\n\\#h.jpg\nx\\ y.jpg\n"
        "!\n[z-a]\n",
        "n": "!b/c\n",
        "e/f": "*\n!g.*\n",
    }
    for name, text in rules.items():
        (tmp_path / name / ".clipsearchignore").write_text(text)
        (tmp_path / name / ".gitignore").write_text(text)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    listed = subprocess.run(
        ["git", "-C", tmp_path, "ls-files", "-z", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    by_git = sorted(name for name in listed if name and "ignore" not in name)
    assert sorted(names(scan_folder(tmp_path))) == by_git


@needs_posix
def test_names_that_are_not_utf8_go_through_unharmed(tmp_path: Path) -> None:
    raw = b'caf\xe9/\xff\xfe [odd] "n"\n.jpg'
    put(tmp_path, os.fsdecode(raw))
    (tmp_path / ".clipsearchignore").write_bytes(b"*.gif\n")  # rules have to bear such names too
    (found,) = names(scan_folder(tmp_path))
    assert os.fsencode(found) == raw


@needs_posix
def test_a_name_that_is_not_utf8_can_be_excluded(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    assert names(scan_folder(tmp_path, exclude=[os.fsdecode(b"caf\xe9.*")])) == []
    (tmp_path / ".clipsearchignore").write_bytes(b"caf\xe9.jpg\n")
    assert names(scan_folder(tmp_path)) == []


@needs_posix
def test_links_are_not_followed_by_default(tmp_path: Path) -> None:
    put(tmp_path, "root/a.jpg", "outside/b.jpg")
    (tmp_path / "root/link.jpg").symlink_to(tmp_path / "outside/b.jpg")
    (tmp_path / "root/folder").symlink_to(tmp_path / "outside")
    assert names(scan_folder(tmp_path / "root")) == ["a.jpg"]


@needs_posix
def test_followed_links_never_loop_and_enter_a_folder_once(tmp_path: Path) -> None:
    put(tmp_path, "root/sub/a.jpg", "outside/b.jpg")
    root = tmp_path / "root"
    (root / "aa-up").symlink_to(tmp_path)  # holds the root itself
    (root / "self").symlink_to(root)
    (root / "sub/back").symlink_to(root)
    (root / "to-sub").symlink_to(root / "sub")
    (root / "z1").symlink_to(tmp_path / "outside")
    (root / "z2").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/round").symlink_to(tmp_path / "outside")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "circle").symlink_to(root / "circle")
    (root / "file.jpg").symlink_to(tmp_path / "outside/b.jpg")
    scan = scan_folder(root, follow_links=True)
    found = names(scan)
    assert scan.complete
    by_file = sorted(os.path.realpath(root / name) for name in found)
    assert by_file.count(str(root / "sub/a.jpg")) <= 2
    assert "file.jpg" in found
    assert "sub/a.jpg" in found
    assert len(found) < 10
    assert scan.unreadable == []


@needs_posix
def test_a_link_that_cannot_be_looked_at_does_not_cost_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "root/a.jpg", "root/sub/b.jpg")
    root = tmp_path / "root"
    for name in ("shut", "left-out"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    look = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith((str(root / "shut"), str(root / "left-out"))):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return look(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    scan = scan_folder(root, follow_links=True, exclude=["left-out"])
    # The link itself is a candidate: if it leads to a photo, that one cannot be read for now.
    assert names(scan) == ["a.jpg", "shut", "sub/b.jpg"]
    assert scan.unreadable == [("shut", "no permission to read it")]
    assert scan.is_unreadable("shut/below")
    assert not scan.is_unreadable("sub")


@needs_posix
def test_pipes_sockets_and_devices_are_never_candidates(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    put(tmp_path, "a.jpg")
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:
        server.bind(f"{short}/s.jpg")
        assert names(scan_folder(Path(short))) == []
    assert names(scan_folder(tmp_path)) == ["a.jpg"]


@pytest.mark.parametrize("name", ["nowhere", "file.jpg"])
def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, "file.jpg")
    with pytest.raises(PhotoFolderError, match=name) as caught:
        scan_folder(tmp_path / name)
    assert caught.value.hint


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for inside in folder.rglob("*"):
        if inside.is_dir():
            inside.chmod(0o755)
    shutil.rmtree(folder)


SCAN_AS_SOMEBODY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from clipsearch.photos.scan import scan_folder  # before the change: the code may be root's
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
scan = scan_folder(Path(sys.argv[1]))
print([f.relative_path for folder in scan for f in folder.files])
print(scan.unreadable, scan.complete)
print([scan.is_unreadable(p) for p in ("", "open", "shut", "shut/below", "shutter", "nostat")])
"""


@needs_posix
def test_a_folder_without_permission_hides_its_files_but_does_not_lose_them(
    open_folder: Path,
) -> None:
    put(open_folder, "open/a.jpg", "shut/b.jpg", "shut/below/c.jpg", "nostat/d.jpg")
    (open_folder / "shut").chmod(0)
    (open_folder / "nostat").chmod(0o744)  # names can be listed, files not looked at
    package = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", SCAN_AS_SOMEBODY, open_folder, package],
        capture_output=True,
        text=True,
        check=True,
    )
    found, how, asked = run.stdout.splitlines()
    assert found == "['open/a.jpg']"
    reason = "no permission to read it"
    assert how == f"{[('nostat', reason), ('shut', reason)]} True"
    assert asked == "[False, False, True, True, False, True]"


def test_a_folder_removed_during_the_walk_is_gone_not_unreadable(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg")
    scan = scan_folder(tmp_path)
    found = []
    for folder in scan:
        if not folder.relative_path:
            shutil.rmtree(tmp_path / "b")
        found.append(folder.relative_path)
    assert found == ["", "a"]
    assert scan.unreadable == []
    assert scan.complete


def test_a_root_that_goes_away_during_the_walk_leaves_it_incomplete(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    put(root, "a/1.jpg", "b/2.jpg")
    scan = scan_folder(root)
    for folder in scan:
        if not folder.relative_path:
            root.rename(tmp_path / "gone")
            root.mkdir()  # the empty mount point
    assert not scan.complete


@needs_posix
def test_an_ignore_file_that_cannot_be_read_fails_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "private/a.jpg", "b.jpg")
    ignore = tmp_path / "private/.clipsearchignore"
    if os.geteuid() != 0:
        ignore.touch(mode=0)
    elif Path("/proc/self/mem").exists():
        ignore.symlink_to("/proc/self/mem")  # a regular file that not even root can read at 0
    else:
        pytest.skip("as root on this system, every file can be read")
    scan = scan_folder(tmp_path)
    assert names(scan) == ["b.jpg"]
    assert scan.is_unreadable("private")


def test_a_thousand_places_left_out_cost_a_file_no_more_than_one() -> None:
    def seconds(places: int) -> float:
        rules = Exclusions("/r", (), [f"2019/{i % 50:02}/IMG_{i:05}.jpg" for i in range(places)])
        assert rules.excludes("2019/00/IMG_00000.jpg")
        return min(
            timeit.repeat(lambda: rules.excludes("2020/07/IMG_00007.jpg"), number=200, repeat=5)
        )

    assert seconds(1000) < 10 * seconds(1)  # as patterns: a hundred times and more


def test_what_is_left_out_takes_along_what_lies_in_it(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c.jpg", "a/bc.jpg", "a/d.jpg", "b/e.jpg")
    left_out = ["a/b", "a/d.jpg", "e.jpg"]
    assert names(scan_folder(tmp_path, left_out=left_out)) == ["a/bc.jpg", "b/e.jpg"]
    assert Exclusions(tmp_path, (), left_out).excludes("a/b/c.jpg")


def test_the_walk_costs_one_stat_a_file_and_one_listing_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.jpg", "one/b.jpg", "one/two/c.jpg", "one/two/d.txt")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert len(names(scan_folder(tmp_path))) == 3
    assert len(listed) == 1 + 3  # the look at the root beforehand, and each folder
