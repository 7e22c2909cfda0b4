"""Which folders belong to a library: roots in roots, exclusions, removals, disks that go away."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Cli, draw_photo

from clipsearch.errors import PhotoFolderError, StorageError, UsageError
from clipsearch.library import Library
from clipsearch.photos.scan import scan_folder
from clipsearch.store.catalog import Catalog

needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file names")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "library")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two photos, and two in a folder of their own."""
    folder = tmp_path / "album"
    for seed, name in enumerate(("top.jpg", "other.jpg", "Private/a.jpg", "Private/b.jpg")):
        draw_photo(folder / name, seed)
    return folder


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another disk than pytest's folders, where there is one."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is only one disk here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def known(library: Library) -> set[str]:
    """The last two parts of the paths of all photos that can be found."""
    return {"/".join(Path(hit.path).parts[-2:]) for hit in library.query("a photo", k=50)}


def test_what_was_removed_stays_away_until_it_is_named(library: Library, album: Path) -> None:
    library.index([album])
    assert library.remove([album / "Private", album / "top.jpg"]) == (3, 3)
    library.index()
    library.index([album], exclude=["*.gif"])
    assert known(library) == {"album/other.jpg"}
    library.index([album / "Private"])
    assert known(library) == {"album/other.jpg", "Private/a.jpg", "Private/b.jpg"}
    library.index([album / "top.jpg"])
    assert "album/top.jpg" in known(library)


def test_removing_is_all_or_nothing(library: Library, album: Path, tmp_path: Path) -> None:
    library.index([album])
    with pytest.raises(PhotoFolderError, match="knows no photo"):
        library.remove([album / "Private", album / "2019"])
    with pytest.raises(PhotoFolderError, match="knows nothing"):
        library.remove([album / "Private", tmp_path])
    assert library.status().photos == 4
    assert library.remove([album / "Private", album, album / "top.jpg"]) == (4, 4)
    assert library.status().roots == []


def test_many_photos_are_removed_in_one_go(library: Library, album: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for seed in range(20):
        draw_photo((album, other)[seed % 2] / f"{seed}.jpg", 200 + seed, size=(64, 64))
    library.index([album, other])
    many = [
        *album.glob("1*.jpg"),
        *other.glob("1*.jpg"),
        album / "Private",
        album / "Private/a.jpg",
    ]
    assert library.remove(many) == (13, 13)
    with closing(sqlite3.connect(library.folder / "catalog.sqlite")) as catalog:
        assert catalog.execute("SELECT count(*) FROM scan").fetchone() == (2,)
    library.index()
    assert library.status().photos == 24 - 13


@pytest.mark.parametrize(("step", "left"), [("add_root", 4), ("remove_root", 3), ("begin_scan", 1)])
def test_a_removal_that_breaks_off_brings_nothing_back(
    library: Library, album: Path, monkeypatch: pytest.MonkeyPatch, step: str, left: int
) -> None:
    inner = album / "Private"
    library.index([inner])
    inner.rename(album.with_name("away"))
    library.index([album])
    album.with_name("away").rename(inner)

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(Catalog, step, full)
        with pytest.raises(StorageError):
            library.remove([inner, album / "top.jpg"])
    library.index()
    assert library.status().photos == left


def test_a_folder_named_like_the_way_to_its_root_is_removed_itself(
    library: Library, album: Path
) -> None:
    again = album / album.relative_to("/") / "2020"
    draw_photo(again / "x.jpg", 7)
    draw_photo(album / "2020" / "y.jpg", 8)
    library.index([album])
    library.remove([again])
    library.index()
    assert "2020/y.jpg" in known(library)
    assert "2020/x.jpg" not in known(library)


def test_names_that_differ_in_a_byte_that_is_no_text_are_two(library: Library, album: Path) -> None:
    for seed, name in enumerate((b"caf\xe8.jpg", b"caf\xe9.jpg"), start=20):
        draw_photo(album / "plain.jpg", seed).rename(album / os.fsdecode(name))
    library.index([album])
    library.remove([album / os.fsdecode(b"caf\xe9.jpg")])
    library.index()
    assert f"album/{os.fsdecode(b'caf' + bytes([0xE8]))}.jpg" in known(library)


# Blanks of every kind, and signs that mean something to gitignore.
ODD_NAMES = [
    *(
        "x.jpg\n",
        "x.jpg\t",
        "x.jpg ",
        "x.jpg\u00a0",
        "x\u2003",
        "x\x85",
        "x\udc85",
        " x",
        "a\nb.jpg",
    ),
    *("a b.jpg", "a\\b.jpg", "a\\ ", "[x].jpg", "!x", "#x", "a*?", "caf\udce9.jpg", "e\u0301.jpg"),
]


@needs_posix
def test_a_removed_photo_may_have_any_name(library: Library, album: Path) -> None:
    odd = [album / "Private" / name for name in ODD_NAMES]
    for seed, path in enumerate(odd, start=100):
        draw_photo(album / "plain.jpg", seed).rename(path)
    library.index([album])
    assert library.remove(odd) == (len(odd), len(odd))
    report = library.index()
    assert (report.added, report.unchanged) == (0, 4)
    assert library.index([odd[0]]).added == 1


@needs_posix
def test_what_an_older_library_left_out_by_patterns_stays_so(library: Library, album: Path) -> None:
    odd = [album / "Private" / name for name in ODD_NAMES]
    for seed, path in enumerate(odd, start=100):
        draw_photo(album / "plain.jpg", seed).rename(path)
    patterns = ["/" + re.sub(r"([\\*?\[\]!#\s])", r"\\\1", f"Private/{name}") for name in ODD_NAMES]
    with Catalog.open(library.folder) as catalog:
        catalog.add_root(str(album), {"left_out": patterns})
    assert library.index().added == 4
    assert library.index([odd[3], odd[4]]).added == 2  # named, they are wanted again
    assert library.remove([album / "top.jpg"]) == (1, 1)
    library.index([album.parent], exclude=["plain.jpg"])
    assert library.index().unchanged == 5
    (root,) = library.status().roots
    assert root.left_out[1:] == [
        *(f"/album/Private/{name}" for name in ODD_NAMES if name not in {odd[3].name, odd[4].name}),
        "/album/top.jpg",
    ]


def test_an_outer_folder_takes_over_the_rules_of_the_inner_one(
    library: Library, album: Path
) -> None:
    inner = album / "2019 [raw]"
    for seed, name in enumerate(("thumbs/a.jpg", "deep/thumbs/b.jpg", "hidden/c.jpg", "d.jpg")):
        draw_photo(inner / name, 30 + seed)
    library.index([inner], exclude=["thumbs/", str(inner / "hidden")])
    assert known(library) == {"2019 [raw]/d.jpg"}
    library.index([album])
    assert known(library) == {
        *("2019 [raw]/d.jpg", "album/top.jpg", "album/other.jpg", "Private/a.jpg", "Private/b.jpg")
    }
    assert [root.path for root in library.status().roots] == [str(album)]


def test_a_root_that_was_away_while_the_folder_around_it_was_indexed_is_no_part_of_it(
    library: Library, album: Path
) -> None:
    inner = album / "Private"
    library.index([inner], exclude=["b.jpg"])
    inner.rename(album.with_name("away"))
    library.index([album])
    album.with_name("away").rename(inner)
    library.index()
    status = library.status()
    assert (status.photos, status.files) == (3, 3)
    assert "Private/b.jpg" not in known(library)
    # Named, the outer one takes it over; what breaks meanwhile is known once.
    (inner / "a.jpg").write_bytes(b"\xff\xd8\xff broken")
    library.index([album])
    assert known(library) == {"album/top.jpg", "album/other.jpg"}
    assert library.remove([album]) == (2, 2)


@needs_posix
@pytest.mark.parametrize("place", [".Private", "lost+found/deep", "link", "link/deep"])
def test_a_root_where_the_walk_around_it_does_not_come_stays_apart(
    library: Library, album: Path, place: str
) -> None:
    if place.startswith("link"):
        (album / "link").symlink_to(album.with_name("elsewhere"))
        draw_photo(album.with_name("elsewhere") / "x.jpg", 79)
    draw_photo(album / place / "own.jpg", 80)
    library.index([album / place])
    photos = library.status().photos
    library.index([album])
    assert library.status().photos == photos + 4
    assert len(library.status().roots) == 2
    draw_photo(album / place / "new.jpg", 81)
    assert library.index([album]).added == 1  # it lies in what was named


@needs_posix
def test_a_root_that_follows_links_is_not_taken_over_by_one_that_does_not(
    library: Library, album: Path
) -> None:
    draw_photo(album.with_name("elsewhere") / "far.jpg", 82)
    draw_photo(album / "Private" / "deep" / "d.jpg", 83)
    inner = album / "Private"
    (inner / "link").symlink_to(album.with_name("elsewhere"))
    library.index([inner / "deep"])
    library.index([inner], follow_links=True)
    inner.rename(album.with_name("away"))
    library.index([album])
    album.with_name("away").rename(inner)
    library.index([album])
    assert library.status().photos == 6
    library.index([album], follow_links=True)
    assert library.status().photos == 6
    assert [root.path for root in library.status().roots] == [str(album)]


def test_a_root_between_two_others_keeps_them_apart(library: Library, album: Path) -> None:
    library.index([album / "Private"], follow_links=True)
    draw_photo(album / "Private" / "deep" / "d.jpg", 83)
    with Catalog.open(library.folder) as catalog:
        catalog.add_root(str(album / "Private" / "deep"), {})
    library.index()
    library.index([album])
    assert library.status().photos == 5
    assert len(library.status().roots) == 3


def test_a_disk_that_is_away_stays_known_to_the_root_that_takes_over(
    library: Library, album: Path, other_disk: Path
) -> None:
    inner = album / "Private"
    draw_photo(other_disk / "far.jpg", 84)
    (inner / "disk").symlink_to(other_disk)
    library.index([inner], follow_links=True)
    (inner / "disk").unlink()
    (inner / "disk").mkdir()
    library.index([album], follow_links=True)
    assert (library.status().photos, len(library.status().roots)) == (5, 1)


def test_a_removed_folder_takes_the_roots_in_it_along(
    library: Library, album: Path, other_disk: Path
) -> None:
    (album / "disk").symlink_to(other_disk)
    draw_photo(other_disk / "far.jpg", 50)
    library.index([album / "disk"])
    library.index([album], follow_links=True)
    assert len(library.status().roots) == 2  # another disk can go away by itself
    assert library.status().files == 5
    library.remove([album / "disk"])
    library.index()
    assert library.status().files == 4
    assert len(library.status().roots) == 1


def test_what_is_refused_is_not_remembered(library: Library, album: Path, tmp_path: Path) -> None:
    library.index([album], exclude=["Private/"])
    for paths, exclude in (([album], ["[bad"]), ([tmp_path / "none", album], None)):
        with pytest.raises((UsageError, PhotoFolderError)):
            library.index(paths, exclude=exclude)
    draw_photo(tmp_path / "new" / "n.jpg", 9)
    with pytest.raises(UsageError, match="not a glob"):
        library.index([tmp_path / "new"], exclude=[""])
    assert library.index().unchanged == 2
    (root,) = library.status().roots
    assert root.left_out == ["Private/"]


def test_rules_for_a_part_of_a_root_are_refused_since_they_would_hold_for_all(
    library: Library, album: Path
) -> None:
    library.index([album])
    before = known(library)
    for options in ({"exclude": ["*.jpg"]}, {"exclude": []}, {"follow_links": True}):
        with pytest.raises(UsageError, match="hold for all") as caught:
            library.index([album / "Private"], **options)
        assert "/Private/" in (caught.value.hint or "")
    assert library.index([album / "Private"]).removed == 0
    assert known(library) == before
    library.index([album, album / "Private"], exclude=["/Private/b.jpg"])
    assert known(library) == before - {"Private/b.jpg"}


def test_rules_can_be_taken_back_by_the_command(cli: Cli, album: Path) -> None:
    assert "2 added" in cli("index", album, "--exclude", "Private/").stderr
    assert "2 added" in cli("index", album, "--exclude", "").stderr


def test_options_without_a_folder_are_for_all_of_them(library: Library, album: Path) -> None:
    library.index([album])
    library.index(exclude=["Private/"])
    assert known(library) == {"album/top.jpg", "album/other.jpg"}


def test_a_named_folder_that_is_passed_over_is_told(library: Library, album: Path) -> None:
    draw_photo(album / ".hidden" / "h.jpg", 45)
    library.index([album])
    (warning,) = library.index([album / ".hidden"]).warnings
    assert warning[0].startswith(f"{album / '.hidden'} was passed over")
    assert library.index([album / "Private", album]).warnings == []


def test_following_links_is_remembered_by_the_command_too(
    cli: Cli, album: Path, tmp_path: Path
) -> None:
    draw_photo(tmp_path / "elsewhere" / "far.jpg", 40)
    (album / "link").symlink_to(tmp_path / "elsewhere")
    assert "5 added" in cli("index", album, "--follow-links").stderr
    assert "5 unchanged" in cli("index", album).stderr
    assert "1 removed" in cli("index", album, "--no-follow-links").stderr


def test_the_photos_of_a_disk_inside_a_folder_outlast_its_absence(
    library: Library, album: Path, other_disk: Path
) -> None:
    disk = other_disk / "photos"
    draw_photo(disk / "2020" / "far.jpg", 60)
    (album / "disk").symlink_to(disk)
    library.index([album], follow_links=True)
    shutil.move(disk, other_disk / "away")
    report = library.index()
    assert report.unreadable_folders == [
        (str(album / "disk"), "the disk that was mounted there is away")
    ]
    assert library.status().photos == 5
    (album / "disk").unlink()
    (album / "disk").mkdir()  # the mount point that is left
    assert library.index().unreadable_folders
    assert library.index().removed == 0
    (album / "disk").rmdir()
    shutil.move(other_disk / "away", disk)
    (album / "disk").symlink_to(disk)
    assert (library.index().unchanged, library.status().photos) == (5, 5)
    (disk / "2020" / "far.jpg").unlink()
    assert library.index().removed == 1


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("before", ".keep"),
        ("while it is listed", ".keep"),
        ("while it is listed", "empty/"),
        ("later in the walk", None),
        ("later in the walk", "empty/"),
    ],
)
def test_a_disk_that_goes_away_takes_no_photo_along(
    library: Library,
    album: Path,
    other_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    left: str | None,
) -> None:
    mount = album / "disk"
    for seed, name in enumerate(("far.jpg", "2020/a.jpg", "empty/b.jpg"), start=60):
        draw_photo(other_disk / name, seed)
    mount.symlink_to(other_disk)
    library.index([album], follow_links=True)

    def unmount(_: object = None) -> None:
        if mount.is_symlink():
            mount.unlink()
            if left is not None:
                mount.mkdir()
                (mount / left).mkdir() if left.endswith("/") else (mount / left).touch()

    scandir = os.scandir

    def scandir_late(path: str) -> object:
        if path == str(mount):
            unmount()
        return scandir(path)

    looks = iter(range(99))
    if moment == "before":
        unmount()
    elif moment == "while it is listed":
        monkeypatch.setattr(os, "scandir", scandir_late)
    report = library.index(
        progress=lambda step: unmount() if moment.startswith("later") and next(looks) == 2 else None
    )
    assert (report.removed, library.status().photos) == (0, 7)
    assert [place for place, _ in report.unreadable_folders] == [str(mount)]
    monkeypatch.undo()
    if left is not None:
        shutil.rmtree(mount)
    mount.symlink_to(other_disk)
    assert library.index().unchanged == 7
    shutil.rmtree(other_disk / "empty")
    (other_disk / "empty").mkdir()
    report = library.index()
    assert (report.removed, report.unreadable_folders) == (1, [])


def test_a_root_whose_disk_left_a_hidden_file_behind_is_away(library: Library, album: Path) -> None:
    library.index([album])
    album.rename(album.with_name("away"))
    album.mkdir()
    (album / ".DS_Store").touch()
    report = library.index()
    assert [path for path, _ in report.unavailable] == [str(album)]
    assert library.status().photos == 4


def test_a_disk_in_a_disk_that_is_away_is_still_known(album: Path, other_disk: Path) -> None:
    mount = album / "disk"
    mount.symlink_to(other_disk)
    (other_disk / "inner").symlink_to(draw_photo(album.with_name("inner") / "x.jpg", 70).parent)
    there = scan_folder(album, follow_links=True)
    list(there)
    mount.unlink()
    mount.mkdir()
    away = scan_folder(album, follow_links=True, mounts=there.mounts)
    list(away)
    assert there.mounts == away.mounts == ["disk", "disk/inner"]


def test_a_folder_filter_relative_to_here_means_here(
    library: Library, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_photo(album / "2024" / "c.jpg", 5)
    draw_photo(album / "Private" / "2024" / "d.jpg", 6)
    library.index([album])

    def names(folder: str) -> set[str]:
        return {Path(hit.path).name for hit in library.query("a photo", k=9, folders=[folder])}

    monkeypatch.chdir(album / "Private")
    assert names(".") == {"a.jpg", "b.jpg", "d.jpg"}
    assert names("2024") == names("./2024") == {"d.jpg"}
    assert names("../2024") == {"c.jpg"}
    monkeypatch.chdir("/")
    assert names("2024") == names("album/2024") == {"c.jpg"}
    with pytest.raises(UsageError, match="no photo there"):
        names("./2024")


@needs_posix
@needs_posix
def test_a_folder_that_was_indexed_through_a_link_is_known_by_its_own_name_too(
    library: Library, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(album, target_is_directory=True)
    library.index([link])
    monkeypatch.chdir(album / "Private")  # the system then says where that really is
    inside = library.query("a photo", folders=["."])
    assert {hit.path for hit in inside} == {
        str(link / "Private" / name) for name in ("a.jpg", "b.jpg")
    }
    assert library.index(["."]).unchanged == 4
    assert library.index([album / "Private"]).warnings == []
    assert [root.path for root in library.status().roots] == [str(link)]
    assert library.remove(["a.jpg"]) == (1, 1)
    assert "Private/a.jpg" not in known(library)


@needs_posix
def test_a_folder_is_known_through_a_link_to_it(
    library: Library, album: Path, tmp_path: Path
) -> None:
    (tmp_path / "best").symlink_to(album / "Private", target_is_directory=True)
    library.index([album])
    assert len(library.query("a photo", folders=[tmp_path / "best"])) == 2
    library.index([tmp_path / "best"])
    assert [root.path for root in library.status().roots] == [str(album)]


def test_a_folder_may_be_called_like_the_home_of_nobody(
    cli: Cli, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "~nobody-of-this-name"
    draw_photo(album / name / "h.jpg", 44)
    monkeypatch.chdir(album)
    library = Library.open(f"{name}/library")
    assert library.folder == album / name / "library"
    assert library.index([name]).added == 1
    assert len(library.query("a photo", folder=name)) == 1
    assert library.remove([f"{name}/h.jpg"]) == (1, 1)
    assert "without /h.jpg" in cli("--library", f"{name}/library", "status", cwd=album).stdout
    for arguments in (("index", "~none"), ("remove", "~none"), ("index", name, "--model", "~none")):
        assert "expect" not in cli(*arguments, cwd=album, check=None).stderr


@needs_posix
def test_a_working_folder_that_was_deleted_is_told(
    library: Library, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index([album])
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert len(library.query("a photo", folder=album / "Private")) == 2
    for ask in (
        lambda: library.query("a photo", folder="."),
        lambda: library.query(image="x.jpg"),
        lambda: library.index(["."]),
        lambda: library.remove(["."]),
        lambda: Library.open("library"),
    ):
        with pytest.raises(UsageError, match="not there any more"):
            ask()


def test_a_library_and_a_camera_may_be_named_in_bytes_that_are_no_text(
    album: Path, tmp_path: Path
) -> None:
    library = Library.open(tmp_path / os.fsdecode(b"biblioth\xe8que"))
    library.index([album])
    assert len(library.query("a photo")) == 4
    assert library.query("a photo", camera=os.fsdecode(b"\xe8")) == []


def test_a_clock_that_is_centuries_off_stops_nothing(library: Library, album: Path) -> None:
    os.utime(album / "top.jpg", ns=(0, 9_300_000_000_000_000_000))
    assert library.index([album]).added == 4
    assert library.index().unchanged == 4


def test_ignore_rules_that_vanish_while_they_are_looked_at_leave_the_folder(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (album / ".clipsearchignore").write_text("*.gif")

    def gone(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_bytes", gone)
    (top, private) = scan_folder(album)
    assert (len(top.files), len(private.files)) == (2, 2)
