"""Walking a folder of photos: what is there, without reading any of it.

Rules of the walk, in the order in which they are asked:

1. Hidden files and folders (names that start with a dot, `._*` included) and the folders that
   systems and tools keep for themselves (`SYSTEM_FOLDERS`) are passed over. The root itself may
   be hidden: it was asked for by name.
2. Links are passed over, unless `follow_links`. Then a linked file counts as a file where the
   link lies; a linked folder is entered once, and not at all when it lies inside the root,
   where it is found at its own place anyway. So no chain of links makes the walk endless.
3. What an `exclude` glob matches is passed over, whatever a file says.
4. `.clipsearchignore` files hold gitignore rules for their own folder and those below; a deeper
   file overrules a higher one, and `!pattern` takes back an exclusion, as in git.
5. A folder that was on another disk than the folder around it, in the walk before or earlier in
   this one, counts as not readable when it is gone, or is on that disk no more and has nothing to
   show but hidden files, as a mount point may: its disk is away, its photos are not.
6. Devices, pipes and sockets are no photos and are never opened; nor are files whose suffix says
   that they are something else (`NOT_PHOTO_SUFFIXES`). Every other file is a candidate, and its
   content decides when it is decoded.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pathspec

from clipsearch.errors import PhotoFolderError, UsageError
from clipsearch.records import FoundFile

IGNORE_FILE = ".clipsearchignore"

SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",  # Synology thumbnails
        "@recycle",  # QNAP
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "node_modules",
        "__macosx",
        "__pycache__",
    }
)

_SUFFIXES = (
    # words and data
    "txt md rst log csv tsv json jsonl geojson yaml yml toml ini cfg conf xml xmp html htm css "
    "pdf doc docx odt rtf xls xlsx ods ppt pptx odp epub mobi tex srt vtt vcf ics eml "
    "sqlite sqlite3 db lrcat lrdata pickle pkl npy npz parquet safetensors "
    # films and sound
    "mp4 m4v mov avi mkv webm mpg mpeg mts m2ts 3gp wmv flv vob ogv "
    "mp3 m4a aac wav flac ogg oga opus wma aiff mid "
    # archives and disk images
    "zip tar gz tgz bz2 xz zst 7z rar iso dmg cab jar apk deb rpm "
    # programs and their sources
    "py pyc pyi js mjs ts jsx tsx c h cc cpp hpp rs go java kt rb php sh bat ps1 exe dll so "
    "dylib o a class wasm lock "
    # what photo programs, systems and fonts leave beside photos
    "aae thm pp3 dop cos nksc on1 lnk url torrent part crdownload tmp bak swp ttf otf woff "
    "woff2 svg eps ai"
)
# Broken clocks date files beyond what the catalogue can hold: the year 2262.
_FAR_NS = 2**63 - 1
# Bytes that are no UTF-8 are lone surrogates in Python's names; matchers take valid Unicode only.
_VALID = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
NOT_PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())


class FoundFolder(NamedTuple):
    """The candidates of one folder, sorted by name.

    `relative_path` is '' for the root, else written like `FoundFile.relative_path`.
    """

    relative_path: str
    files: list[FoundFile]


def scan_folder(
    root: Path,
    *,
    exclude: Sequence[str] = (),
    left_out: Collection[str] = (),
    follow_links: bool = False,
    skip: Collection[str] = (),
    mounts: Sequence[str] = (),
) -> Scan:
    """Prepare the walk of `root`; nothing but the root itself is looked at yet.

    Args:
        root: an existing folder.
        exclude: globs in gitignore's language, seen from the root: `*.png`, `Private/`,
            `/2019/raw`. A path that starts with the root's own is taken from the root.
        left_out: files and folders, relative to the root, that are passed over too.
        follow_links: enter linked folders and take linked files.
        skip: absolute folders that are not entered.
        mounts: `Scan.mounts` of the walk before this one.
    Raises:
        PhotoFolderError: the root is not there, is no folder, or cannot be listed.
        UsageError: a glob that is not one.
    """
    try:
        root_stat = Path(root).stat()
        if not stat.S_ISDIR(root_stat.st_mode):
            raise PhotoFolderError(
                f"{root} is a file, not a folder",
                hint=f"give the folder it lies in: {Path(root).parent}",
            )
        os.scandir(root).close()
    except FileNotFoundError:
        raise PhotoFolderError(
            f"there is no folder {root}", hint="check the spelling, or mount its disk"
        ) from None
    except (OSError, ValueError) as error:
        raise PhotoFolderError(f"cannot list {root}: {_reason(error)}") from error
    rules = Exclusions(root, exclude, left_out)
    return Scan(Path(root), root_stat, rules, follow_links, frozenset(skip), frozenset(mounts))


class Scan:
    """One walk of one root. Iterate it once; then ask how it went.

    Iterating yields a `FoundFolder` for every folder that could be listed, empty ones too, depth
    first and sorted, at the cost of one `scandir` per folder and one `stat` per candidate; what
    is held is one folder's files and the names of the folders still to visit.

    Attributes:
        unreadable: (relative folder, reason) of each folder that could not be listed.
        mounts: relative folders on another disk than the folder around them, once the walk is
            done; those that are away stay among them.
        complete: True once the walk has come to its end with the root still in its place.
            False while it runs, after a break, and when the root's disk went away meanwhile: then
            what was not seen says nothing.
    """

    def __init__(
        self,
        root: Path,
        root_stat: os.stat_result,
        exclusions: Exclusions,
        follow_links: bool,
        skip: frozenset[str],
        mounts_before: frozenset[str],
    ) -> None:
        self.root = root
        self.unreadable: list[tuple[str, str]] = []
        self.mounts: list[str] = []
        self.complete = False
        self._root_stat = root_stat
        self._exclusions = exclusions
        self._follow_links = follow_links
        self._skip = skip
        self._mounts_before = mounts_before
        self._unreadable: set[str] = set()  # the places of `unreadable`, which are asked for often
        self._mount_devices: dict[str, int] = {}  # of the mounts met in this walk
        self._linked_folders: set[tuple[int, int]] = set()

    def is_unreadable(self, folder: str) -> bool:
        """Whether `folder` (relative) or a folder above it could not be listed.

        The files known to lie there were not seen, which does not mean that they are gone.
        """
        return "" in self._unreadable or _lies_in(folder, self._unreadable)

    def __iter__(self) -> Iterator[FoundFolder]:
        # The last entry is the next folder; its path on disk travels along, as joining is dear.
        waiting = [("", os.fspath(self.root), self._exclusions, self._root_stat.st_dev)]
        while waiting:
            relative, path, rules, around = waiting.pop()
            try:
                device = os.stat(path).st_dev  # noqa: PTH116  (speed)
                files, folders, rules = self._list(relative, path, rules)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not relative:
                    self._note(relative, _reason(error))
                continue  # removed since its parent was listed
            except OSError as error:
                self._note(relative, _reason(error))
                continue
            if device != around:
                self._mount_devices[relative] = device
            elif not files and not folders and relative in self._mounts_before:
                self._note_away(relative)
                continue
            yield FoundFolder(relative, files)
            prefix = f"{relative}/" if relative else ""
            waiting.extend(
                (prefix + name, os.path.join(path, name), rules, device)  # noqa: PTH118  (speed)
                for name in reversed(folders)
            )
        self._judge_mounts()
        self.complete = self._root_is_in_place()

    def _judge_mounts(self) -> None:
        """Note the disks that are gone, be it since their folders were walked; keep the mounts."""
        places = sorted(self._mounts_before.union(self._mount_devices))
        for place in places:
            if not self.is_unreadable(place) and not self._is_in_place(place):
                self._note_away(place)
        for place in places:
            around = place.rpartition("/")[0]
            # What was met below a disk that went away may be no mount, but what lay under it.
            is_met = place in self._mount_devices and not self.is_unreadable(around)
            if is_met or (place in self._mounts_before and self.is_unreadable(place)):
                self.mounts.append(place)

    def _is_in_place(self, mount: str) -> bool:
        """Whether a mount is a folder still, and on the disk that it was on in this walk."""
        try:
            now = os.stat(os.path.join(self.root, mount))  # noqa: PTH116, PTH118
        except OSError:
            return False
        return stat.S_ISDIR(now.st_mode) and now.st_dev == self._mount_devices.get(
            mount, now.st_dev
        )

    def _note_away(self, folder: str) -> None:
        self._note(folder, "the disk that was mounted there is away")

    def _note(self, place: str, reason: str) -> None:
        self.unreadable.append((place, reason))
        self._unreadable.add(place)

    def _list(
        self, relative: str, path: str, rules: Exclusions
    ) -> tuple[list[FoundFile], list[str], Exclusions]:
        prefix = f"{relative}/" if relative else ""
        with os.scandir(path) as listing:
            entries = sorted(listing, key=attrgetter("name"))
        for entry in entries:
            if entry.name == IGNORE_FILE and entry.is_file():
                # Rules that cannot be read fail the folder: better not seen than indexed
                # against its owner's wish.
                try:
                    content = Path(entry.path).read_bytes()
                except FileNotFoundError:
                    continue  # removed since the folder was listed
                rules = rules.with_ignore_file(prefix, content)
        asks = rules.any
        files = []
        folders = []
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            is_link = entry.is_symlink()
            if is_link and not self._follow_links:
                continue
            if is_link and (why := _leads_nowhere(entry.path)) is not None:
                if why and not (asks and rules.excludes(prefix + name)):
                    # What was found behind it is kept: below it if it is a folder, and if it is
                    # a photo, it is one that cannot be read for now.
                    self._note(prefix + name, why)
                    files.append(FoundFile(prefix + name, 0, 0, 0, 0))
                continue
            if entry.is_dir(follow_symlinks=is_link):
                if (
                    not is_passed_over(name)
                    and entry.path not in self._skip
                    and not (asks and rules.excludes(f"{prefix}{name}/"))
                    and not (is_link and not self._may_enter(entry.path))
                ):
                    folders.append(name)
            elif entry.is_file(follow_symlinks=is_link):
                dot = name.rfind(".")
                if dot > 0 and name[dot + 1 :].lower() in NOT_PHOTO_SUFFIXES:
                    continue
                if asks and rules.excludes(prefix + name):
                    continue
                try:
                    found = entry.stat(follow_symlinks=is_link)
                except FileNotFoundError:
                    continue  # removed since the folder was listed
                time_ns = found.st_mtime_ns
                if not -_FAR_NS <= time_ns <= _FAR_NS:
                    time_ns = _FAR_NS if time_ns > 0 else -_FAR_NS
                files.append(
                    FoundFile(prefix + name, found.st_size, time_ns, found.st_ino, found.st_dev)
                )
        return files, folders, rules

    def _may_enter(self, link: str) -> bool:
        """Whether a linked folder is outside the root and was not entered through a link yet."""
        real = os.path.realpath(link)
        try:
            found = Path(real).stat()
            inside = Path(real).is_relative_to(os.path.realpath(self.root))
        except OSError:
            return False
        key = (found.st_dev, found.st_ino)
        if inside or key in self._linked_folders:
            return False
        self._linked_folders.add(key)
        return True

    def _root_is_in_place(self) -> bool:
        # A disk pulled out mid-walk leaves nothing, or an empty mount point: another folder.
        try:
            now = self.root.stat()
        except OSError:
            return False
        before = self._root_stat
        return (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)


class Exclusions:
    """What is left out of a root: globs, places, and the ignore files on the way down to a folder.

    Places are looked up, not matched: a thousand of them cost a file no more than one does. Each
    ignore file makes a new object that refers to its parent's rules, so siblings do not see one
    another's.
    """

    def __init__(
        self, root: Path | str, exclude: Sequence[str], left_out: Collection[str] = ()
    ) -> None:
        lines = [from_root(glob, os.fspath(root)) for glob in exclude]
        for line, glob in zip(lines, exclude, strict=True):
            if not _is_pattern(line):
                raise UsageError(
                    f"cannot exclude {glob!r}: it is not a glob", hint="for example: '*.png'"
                )
        lines = [_plain(line) for line in lines]
        self._globs = pathspec.GitIgnoreSpec.from_lines(lines) if lines else None
        self._left_out = frozenset(left_out)
        self._ignore_files: tuple[tuple[int, pathspec.GitIgnoreSpec], ...] = ()  # deepest first

    @property
    def any(self) -> bool:
        """Whether there is anything to ask; most walks have no rule at all."""
        return self._globs is not None or bool(self._left_out or self._ignore_files)

    def with_ignore_file(self, prefix: str, content: bytes) -> Exclusions:
        """These rules and those of an ignore file in the folder `prefix` ('' or 'a/b/')."""
        text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        lines = [line for line in _plain(text).splitlines() if _is_pattern(line)]
        below = object.__new__(Exclusions)
        below._globs = self._globs
        below._left_out = self._left_out
        spec = pathspec.GitIgnoreSpec.from_lines(lines)
        below._ignore_files = ((len(_plain(prefix)), spec), *self._ignore_files)
        return below

    def excludes(self, relative_path: str) -> bool:
        """Whether a file, or a folder written with a '/' at its end, is to be passed over."""
        if self._left_out and _lies_in(relative_path.rstrip("/"), self._left_out):
            return True
        path = _plain(relative_path)
        if self._globs is not None and self._globs.check_file(path).include:
            return True
        for skip, spec in self._ignore_files:
            verdict = spec.check_file(path[skip:]).include
            if verdict is not None:
                return verdict
        return False


def is_passed_over(name: str) -> bool:
    """Whether the walk does not enter a folder for its name alone: hidden ones and systems'."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _is_pattern(line: str) -> bool:
    """Whether a gitignore line can match at all; git, too, passes over one that cannot."""
    try:
        (pattern,) = pathspec.GitIgnoreSpec.from_lines([line]).patterns
    except (ValueError, re.error):
        return False
    return pattern.include is not None


def _lies_in(path: str, places: Collection[str]) -> bool:
    """Whether a relative path is one of these, or lies below one; '' is not looked for."""
    while path:
        if path in places:
            return True
        path = path.rpartition("/")[0]
    return False


def _plain(path: str) -> str:
    """`path` in valid Unicode: every byte that is no UTF-8 as a private letter of its own."""
    return path if path.isascii() else path.translate(_VALID)


def exact_pattern(relative_path: str) -> str:
    """A gitignore pattern that matches this very path, seen from the root, and what is below it."""
    return "/" + re.sub(r"([\\*?\[\]!#\s])", r"\\\1", relative_path)


def from_root(glob: str, root: str) -> str:
    """One `--exclude` glob as one gitignore line, seen from the root."""
    root = os.path.abspath(root).rstrip(os.sep)  # noqa: PTH100  (resolve() would follow links)
    if glob.startswith(root + os.sep):
        glob = glob[len(root) :]  # keeps the separator, which anchors it
    glob = glob.replace(os.sep, "/")
    # A line that starts so would be a comment or take something back: here it is a name.
    return "\\" + glob if glob.startswith(("#", "!")) else glob


def _leads_nowhere(link: str) -> str | None:
    """None for a link to something; '' where nothing is, or in a circle; else why none can tell."""
    try:
        os.stat(link)  # noqa: PTH116  (speed)
    except OSError as error:
        nothing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return "" if nothing else _reason(error)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
