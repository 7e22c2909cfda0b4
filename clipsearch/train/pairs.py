"""Photo-caption pairs from whatever form they come in.

| form | photo | captions |
|---|---|---|
| CSV or TSV with a header | `filepath` | `caption` or `title`; rows of one photo are joined |
| JSON lines | `image` (or `filepath`) | `caption` or `captions` |
| COCO captions JSON | `images[].file_name` | `annotations[].caption` |
| a folder | any photo in it | the lines of the `.txt` file beside it, else what the photo carries |
| WebDataset tar, `shard-{000..005}.tar` | `KEY.jpg` | `KEY.txt`, or `caption(s)` in `KEY.json` |

CSV, JSON lines and tars may name a `label` too: pairs of one label are positives of each other.
A `.txt` file beside a photo is UTF-8, or UTF-16 with its mark, else read as Latin-1; all other
text is UTF-8. Nothing is decoded here; inputs.py looks into the photos.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import posixpath
import re
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipsearch.errors import SkippedPhoto, TrainingDataError
from clipsearch.paths import expanded

PHOTO_COLUMNS = ("filepath", "image", "path", "file", "photo")
CAPTION_COLUMNS = ("caption", "title", "text", "captions")
TEXT_UNREADABLE = "the .txt beside it cannot be read"
MORE_FIELDS = "more fields than the header: put the caption in quotes"
_END = "\0end\0"  # a row after the last
_TAR_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")

HOW_TO_MAKE_PAIRS = (
    "a pairs file is a CSV such as\n"
    "    filepath,caption\n"
    "    photos/rex.jpg,our dog Rex with his red ball\n"
    "    photos/garden.jpg,the garden in May\n"
    "(JSON lines, COCO captions, WebDataset tars and folders with .txt files work too)"
)


class LeftOut(NamedTuple):
    """Something that will not be trained on, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class PhotoSource:
    """Where a photo's bytes lie: a file, or `size` bytes at `offset` of a tar."""

    path: Path
    member: str | None = None
    offset: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """A file with the photo's bytes: its own, or a temporary copy of the tar's member."""
        if self.member is None:
            yield self.path
            return
        copy = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115
        try:
            with copy, self.path.open("rb") as archive:
                archive.seek(self.offset)
                copy.write(archive.read(self.size))
            yield Path(copy.name)
        finally:
            Path(copy.name).unlink()


@dataclass(slots=True)
class CaptionedPhoto:
    """A photo and everything that is said of it."""

    source: PhotoSource
    captions: list[str]
    label: str | None = None


@dataclass(slots=True)
class Pairs:
    """What a pairs file says, photos in its order, each once."""

    origin: str
    photos: list[CaptionedPhoto]
    left_out: list[LeftOut]


def read_pairs(source: Path | str, *, photos_folder: Path | str | None = None) -> Pairs:
    """Read pairs in any of the forms above.

    Args:
        source: a file, a folder, or a brace pattern of tars.
        photos_folder: what relative photo paths are relative to; default: the pairs file's folder.
    Raises:
        TrainingDataError: not there, unreadable, of no known form, or with the wrong columns.
    """
    base = None if photos_folder is None else expanded(photos_folder)
    shards = _existing(source, base)
    left_out: list[LeftOut] = []
    pairs = _collect(str(source), _all_records(shards, base, left_out), left_out)
    if not pairs.photos:
        why = f" ({pairs.left_out[0].reason})" if pairs.left_out else ""
        raise TrainingDataError(f"{source} holds no captioned photo{why}", hint=HOW_TO_MAKE_PAIRS)
    return pairs


def carried_pairs(photos: Iterable[Path]) -> Pairs:
    """The pairs that these photos carry themselves, or have in .txt files.

    Raises:
        TrainingDataError: not one photo there has a caption.
    """
    left_out: list[LeftOut] = []
    records = _from_photos(photos, left_out)
    pairs = _collect("the captions that the library's photos carry", records, [])
    # The library's photos without a caption are no surprise: nobody is told of each.
    pairs.left_out += [item for item in left_out if item.reason == TEXT_UNREADABLE]
    if not pairs.photos:
        why = "; {}: {}".format(*pairs.left_out[0]) if pairs.left_out else ""
        raise TrainingDataError(
            "no pairs were named, and no photo of the library carries a caption (IPTC, XMP, EXIF)"
            + why,
            hint=HOW_TO_MAKE_PAIRS,
        )
    return pairs


def read_labelled(
    source: Path | str, *, photos_folder: Path | str | None = None
) -> tuple[list[tuple[PhotoSource, str]], list[LeftOut]]:
    """Photos with the class each shows, each once, and what was left out.

    Args:
        source: a folder of class folders (underscores in a name are spaces), or a CSV, JSON lines
            or tar that names a `label`.
        photos_folder: what relative paths in a table are relative to; default: its own folder.
    Raises:
        TrainingDataError: not there, unreadable, or without labels.
    """
    from clipsearch.photos.scan import scan_folder

    base = None if photos_folder is None else expanded(photos_folder)
    shards = _existing(source, base)
    left_out: list[LeftOut] = []
    if len(shards) == 1 and shards[0].is_dir():
        folder = shards[0]
        photos = [
            (PhotoSource(folder / file.relative_path), found.relative_path.split("/")[0])
            for found in scan_folder(folder)
            for file in found.files
            if found.relative_path
        ]
        photos = [(photo, label.replace("_", " ")) for photo, label in photos]
    else:
        photos = []
        for record in _all_records(shards, base, left_out):
            if record.label is None:
                left_out.append(LeftOut(record.source.name, "no label"))
            else:
                photos.append((record.source, record.label))
    if not photos:
        raise TrainingDataError(
            f"{source} holds no labelled photo",
            hint="name a folder with a folder for each class, or a CSV with filepath,label",
        )
    return list(dict.fromkeys(photos)), left_out  # a table has a row for each caption


def _existing(source: Path | str, photos_folder: Path | None) -> list[Path]:
    if photos_folder is not None and not photos_folder.is_dir():
        raise TrainingDataError(
            f"--photos {photos_folder}: there is no such folder",
            hint=f"name the folder that the paths in {source} are relative to",
        )
    shards = [expanded(source)]  # which may have braces in its name
    if not shards[0].exists():
        shards = [expanded(name) for name in expand_braces(str(source))]
    missing = [shard for shard in shards if not shard.exists()]
    if missing:
        raise TrainingDataError(f"{missing[0]} does not exist", hint=HOW_TO_MAKE_PAIRS)
    return shards


def expand_braces(pattern: str) -> list[str]:
    """'a-{000..002}.tar' -> three names; '{a,b}.tar' -> two. A name without braces is itself."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        choices = [str(i).zfill(len(numbers[1])) for i in range(first, last + 1)]
    elif "," in match[1]:
        choices = match[1].split(",")
    else:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [head + choice + rest for choice in choices for rest in expand_braces(tail)]


def normalise_caption(caption: str) -> str:
    """Captions that differ only in case, spacing or closing punctuation say the same.

    So do two spellings of one accent, which are one to a tokenizer.
    """
    return unicodedata.normalize("NFC", " ".join(caption.split()).casefold()).rstrip(" .!")


# ---------------------------------------------------------------------------- the forms


def _all_records(
    shards: Sequence[Path], photos_folder: Path | None, left_out: list[LeftOut]
) -> Iterator[CaptionedPhoto]:
    for shard in shards:
        try:
            yield from _records(shard, photos_folder or shard.parent, left_out)
        except UnicodeDecodeError as error:
            raise TrainingDataError(
                f"{shard} is not UTF-8 text: {error}", hint="save it as UTF-8"
            ) from error
        except OSError as error:
            raise TrainingDataError(
                f"{shard} cannot be read: {error.strerror}", hint="see who may read it"
            ) from error


def _records(path: Path, base: Path, left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _from_folder(path, left_out)
    if suffix == ".tar":
        return _from_tar(path, left_out)
    if suffix in (".csv", ".tsv"):
        return _from_table(path, base, left_out)
    if suffix in (".jsonl", ".ndjson"):
        return _from_json_lines(path, base, left_out)
    if suffix == ".json":
        return _from_coco(path, base, left_out)
    raise TrainingDataError(
        f"{path}: pairs of this kind are not known ({suffix or 'no suffix'})",
        hint=HOW_TO_MAKE_PAIRS,
    )


def _from_table(path: Path, base: Path, left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        # open_clip's own CSV files are separated by tabs whatever their suffix says.
        separator = max("\t,;", key=header.count)
        names = [
            name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])
        ]
        photo = _column(path, names, PHOTO_COLUMNS, "photo")
        labels_only = "label" in names and not set(names) & set(CAPTION_COLUMNS)
        caption = None if labels_only else _column(path, names, CAPTION_COLUMNS, "caption")
        rows = csv.DictReader(itertools.chain(file, [_END]), names, delimiter=separator)
        began = ended = 1
        try:
            for row in rows:
                if _END in row.values():
                    return
                began, ended = ended + 1, rows.line_num + 1
                line = f"{path}, line {ended}"
                # An empty one more is a separator at the end of the line: nothing is lost.
                if any(row.get(None) or ()):
                    left_out.append(LeftOut(line, MORE_FIELDS))
                    continue
                if not (row[photo] or "").strip():
                    left_out.append(LeftOut(line, "no photo is named"))
                    continue
                yield CaptionedPhoto(
                    PhotoSource(base / row[photo].strip()),
                    [] if caption is None else [row[caption] or ""],
                    (row.get("label") or "").strip() or None,
                )
        except csv.Error as error:
            raise TrainingDataError(f"{path}, line {rows.line_num + 1}: {error}") from error
        raise TrainingDataError(  # it took the end for a part of a caption, and what lies between
            f"{path}, line {began}: a quote is opened and never closed",
            hint="close it, or, if it belongs to the caption, put the caption in quotes and double"
            ' it: "12"" disc"',
        )


def _column(path: Path, names: Sequence[str], wanted: Sequence[str], what: str) -> str:
    for name in wanted:
        if name in names:
            return name
    found = ", ".join(repr(name) for name in names if name) or "none"
    raise TrainingDataError(
        f"{path}: no column names the {what}; its columns are {found}",
        hint=HOW_TO_MAKE_PAIRS,
    )


def _from_json_lines(path: Path, base: Path, left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            place = f"{path}, line {number}"
            record = _json_object(text, place)
            names = [name for name in PHOTO_COLUMNS if isinstance(record.get(name), str)]
            if not names:
                left_out.append(LeftOut(place, "no photo is named ('image')"))
                continue
            source = PhotoSource(base / record[names[0]])
            yield CaptionedPhoto(source, _captions(record, place, left_out), _label(record))


def _from_coco(path: Path, base: Path, left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        photos: dict[Any, CaptionedPhoto] = {
            image["id"]: CaptionedPhoto(PhotoSource(base / image["file_name"]), [])
            for image in content["images"]
        }
        for note in content["annotations"]:
            if note["image_id"] in photos:
                said = _texts([note["caption"]], f"{path}: image {note['image_id']}", left_out)
                photos[note["image_id"]].captions += said
            else:
                missing = f"{path}: image {note['image_id']}"
                left_out.append(LeftOut(missing, "a caption of a photo that is not listed"))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingDataError(
            f"{path} is not COCO captions JSON ({type(error).__name__}: {error})",
            hint="JSON lines have the suffix .jsonl; " + HOW_TO_MAKE_PAIRS,
        ) from error
    yield from photos.values()


def _from_folder(folder: Path, left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    from clipsearch.photos.scan import scan_folder

    scan = scan_folder(folder)
    photos = (folder / file.relative_path for found in scan for file in found.files)
    return _from_photos(photos, left_out)


def _from_photos(photos: Iterable[Path], left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    from clipsearch.photos.captions import embedded_caption
    from clipsearch.photos.decode import NotAPhoto

    for path in photos:
        beside = path.with_suffix(".txt")
        try:
            said = _plain_text(beside.read_bytes()) if beside.is_file() else None
        except OSError:
            left_out.append(LeftOut(str(path), TEXT_UNREADABLE))
            continue
        try:
            captions = [embedded_caption(path) or ""] if said is None else said.split("\n")
        except NotAPhoto:
            continue
        except SkippedPhoto as error:
            left_out.append(LeftOut(str(path), error.reason))
            continue
        captions = [line for line in captions if line.strip()]
        if captions:
            yield CaptionedPhoto(PhotoSource(path), captions)
        else:
            left_out.append(LeftOut(str(path), "no caption: no .txt beside it, none carried"))


def _plain_text(raw: bytes) -> str:
    """As editors write it: UTF-8, or UTF-16 with its mark, else Latin-1, as in photos' metadata."""
    from clipsearch.photos.exif import decoded

    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    return decoded(raw.removeprefix(codecs.BOM_UTF8))


def _from_tar(path: Path, left_out: list[LeftOut]) -> Iterator[CaptionedPhoto]:
    try:
        with tarfile.open(path, "r:") as archive:
            for key, members in _samples(archive):
                photo = next((members[s] for s in _TAR_PHOTOS if s in members), None)
                if photo is None:
                    left_out.append(LeftOut(f"{path}: {key}", "no .jpg, .png or .webp"))
                    continue
                record: Mapping[str, Any] = {}
                captions: list[str] = []
                if ".json" in members:
                    place = f"{path}: {members['.json'].name}"
                    record = _json_object(_text(archive, members[".json"], path), place)
                    captions = _captions(record, place, left_out)
                if ".txt" in members:
                    captions = [_text(archive, members[".txt"], path).strip(), *captions]
                source = PhotoSource(path, photo.name, photo.offset_data, photo.size)
                yield CaptionedPhoto(source, captions, _label(record))
    except (tarfile.TarError, ValueError) as error:
        raise TrainingDataError(
            f"{path} is not an uncompressed WebDataset tar: {error}",
            hint="unpack a compressed one, or name the folder with the files",
        ) from error


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Members by key: the name up to the first dot of its last part, as WebDataset has it."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in archive:
        if member.isfile():
            folder, _, name = member.name.rpartition("/")
            key, _, suffix = name.partition(".")
            # `tar -c .` writes './1.jpg' where another tool writes '1.txt'.
            place = posixpath.normpath(posixpath.join(folder, key))
            samples.setdefault(place, {})["." + suffix.lower()] = member
    yield from samples.items()


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    content = archive.extractfile(member)
    try:
        return (content or io.BytesIO()).read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrainingDataError(
            f"{path}: {member.name} is not UTF-8 text: {error}",
            hint="make the tar again with its texts saved as UTF-8",
        ) from error


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise TrainingDataError(f"{place} is not JSON: {error}", hint=HOW_TO_MAKE_PAIRS) from error
    if not isinstance(record, dict):
        raise TrainingDataError(f"{place} is no JSON object", hint=HOW_TO_MAKE_PAIRS)
    return record


def _captions(record: Mapping[str, Any], place: str, left_out: list[LeftOut]) -> list[str]:
    for name in CAPTION_COLUMNS:
        value = record.get(name)
        if isinstance(value, str | list):
            return _texts([value] if isinstance(value, str) else value, place, left_out)
    return []


def _texts(values: Iterable[Any], place: str, left_out: list[LeftOut]) -> list[str]:
    """Those that are texts: the words 'None' or '{' would be learned like any others."""
    texts = []
    for value in values:
        if isinstance(value, str):
            # JSON may hold half a character ("\\ud83d"), which no tokenizer takes.
            texts.append(value.encode("utf-8", "replace").decode())
        else:
            left_out.append(LeftOut(place, "a caption that is no text"))
    return texts


def _label(record: Mapping[str, Any]) -> str | None:
    label = record.get("label")
    return str(label) if label not in (None, "") else None


def _collect(origin: str, records: Iterable[CaptionedPhoto], left_out: list[LeftOut]) -> Pairs:
    """Each photo once with all its captions; what says nothing, or the same again, is left out."""
    photos: dict[str, CaptionedPhoto] = {}
    for record in records:
        name = record.source.name
        photo = photos.setdefault(name, CaptionedPhoto(record.source, [], record.label))
        if photo.label is None:
            photo.label = record.label
        elif record.label not in (None, photo.label):
            left_out.append(LeftOut(name, "a second label"))
        said = {normalise_caption(caption) for caption in photo.captions}
        for caption in record.captions:
            words = normalise_caption(caption)
            if not words:
                left_out.append(LeftOut(name, "an empty caption"))
            elif words in said:
                left_out.append(LeftOut(name, "the same caption twice"))
            else:
                said.add(words)
                photo.captions.append(" ".join(caption.split()))
        if not record.captions:
            left_out.append(LeftOut(name, "no caption"))
    return Pairs(origin, [photo for photo in photos.values() if photo.captions], left_out)
