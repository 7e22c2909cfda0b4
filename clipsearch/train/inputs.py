"""From pairs to what the towers take: checked pixels and tokens, splits and batches.

Every photo is decoded once, before the first step, so that nothing can fail in the middle of a
run; its pixels stay as uint8 in memory, or in an unnamed file where they are many.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.errors import SkippedPhoto, StorageError, TrainingDataError, count
from clipsearch.records import PhotoFacts, UInt8Array
from clipsearch.train.metrics import IntArray
from clipsearch.train.pairs import CaptionedPhoto, LeftOut, Pairs, normalise_caption

if TYPE_CHECKING:
    from PIL import Image

    from clipsearch.models.preprocess import Preprocess

FEWEST_PHOTOS = 10
A_COPY = "the same photo as another file"
_PIXELS_IN_MEMORY = 2 << 30
_NEAR_HASH_BITS = 6  # of 64
_NEAR_GREY_LEVELS = 10.0  # of 255, on 8 x 8 colour thumbnails
_BURST_S = 3
_SIDES_OR_WRITING = re.compile(
    r"\b(left|right|text|writing|written|letters?|words?|sign|logo|reads?|says)\b", re.IGNORECASE
)

# Captions -> (C, L) int64 tokens, and the indices of those that were cut.
Tokenise = Callable[[Sequence[str]], tuple[IntArray, Sequence[int]]]


@dataclass(slots=True)
class Examples:
    """Checked pairs, ready for the towers.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        captions: the C captions, in the order of their photos.
        tokens: (C, L) int64.
        photo_of_caption: (C,) the row of each caption's photo.
        caption_ids: (C,) equal where captions say the same (`normalise_caption`).
        labels: (N,) equal where photos have the same label; -1 without one.
        groups: (N,) equal for near-duplicates and bursts, which a split must not tear apart.
        photo_digests: (N,) each photo's identity, as in the library.
        digest: hexadecimal, of photos, captions and labels: whether a run resumes on its data.
    """

    origin: str
    pixels: UInt8Array
    captions: list[str]
    tokens: IntArray
    photo_of_caption: IntArray
    caption_ids: IntArray
    labels: IntArray
    groups: IntArray
    photo_digests: list[bytes]
    left_out: list[LeftOut]
    notes: list[str]
    digest: str

    def __len__(self) -> int:
        return len(self.pixels)

    def captions_of(self, photos: IntArray) -> tuple[IntArray, IntArray]:
        """The captions of these photos, and for each the position of its photo among them."""
        position = np.full(len(self), -1, dtype=np.int64)
        position[photos] = np.arange(len(photos))
        owners = position[self.photo_of_caption]
        chosen = np.flatnonzero(owners >= 0)
        return chosen, owners[chosen]

    def summary(self) -> str:
        """One paragraph: what is there, what was left out and why."""
        photos, captions = count(len(self), "photo"), count(len(self.captions), "caption")
        lines = [f"{photos} with {captions} from {self.origin}"]
        reasons = Counter(item.reason for item in self.left_out)
        lines += [f"left out: {number:,} x {reason}" for reason, number in reasons.most_common()]
        return "\n".join(lines + self.notes)


class Split(NamedTuple):
    """Rows of photos that teach, that choose, and that only report."""

    train: IntArray
    validation: IntArray
    test: IntArray


class Batch(NamedTuple):
    """One contrastive batch: (B,) rows of photos and of the caption drawn for each."""

    photos: IntArray
    captions: IntArray


def no_photo_can_be_read(photos: int, example: Sequence[LeftOut]) -> TrainingDataError:
    """What to say where all photos of a pairs file are left out, with an example of one."""
    none = "the only photo cannot" if photos == 1 else f"none of the {photos:,} photos can"
    why = "".join(f": {what}: {reason}" for what, reason in example)
    return TrainingDataError(
        f"{none} be read{why}",
        hint="relative paths are looked for beside the pairs file; `--photos DIR` names another"
        " folder",
    )


def load_examples(
    pairs: Pairs,
    preprocess: Preprocess,
    tokenise: Tokenise,
    *,
    strict: bool = False,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """Decode and check every photo, and tokenise every caption.

    Args:
        strict: raise instead of leaving something out.
        progress: called with photos done and photos in all.
    Raises:
        TrainingDataError: no photo can be read, or something would be left out under `strict`.
        StorageError: no room for the pixels.
    """
    left_out = list(pairs.left_out)
    photos: list[CaptionedPhoto] = []
    seen: dict[bytes, int] = {}
    looks: list[_Look] = []
    pixels = _room_for_pixels(len(pairs.photos), preprocess.size)

    def look_at(photo: CaptionedPhoto) -> tuple[UInt8Array, _Look] | SkippedPhoto:
        try:
            with photo.source.as_file() as path:
                digest, image, facts = read_picture(path, preprocess.source_px)
        except SkippedPhoto as error:
            return error
        return preprocess.pixels(image), _Look.of(digest, image, facts)

    with ThreadPoolExecutor(threads) as pool:
        # A few hundred at a time: `map` over everything would hold every decoded photo at once.
        for start in range(0, len(pairs.photos), 256):
            block = pairs.photos[start : start + 256]
            for photo, result in zip(block, pool.map(look_at, block), strict=True):
                if isinstance(result, SkippedPhoto):
                    left_out.append(LeftOut(photo.source.name, result.reason))
                elif result[1].digest in seen:
                    first = photos[seen[result[1].digest]]
                    had = {normalise_caption(caption) for caption in first.captions}
                    first.captions += [c for c in photo.captions if normalise_caption(c) not in had]
                    first.label = first.label or photo.label
                    left_out.append(LeftOut(photo.source.name, A_COPY))
                else:
                    seen[result[1].digest] = len(photos)
                    pixels[len(photos)] = result[0]
                    photos.append(photo)
                    looks.append(result[1])
            if progress:
                progress(min(start + 256, len(pairs.photos)), len(pairs.photos))

    if not photos:
        raise no_photo_can_be_read(len(pairs.photos), left_out[-1:])
    captions = [caption for photo in photos for caption in photo.captions]
    tokens, cut = tokenise(captions)
    notes = []
    if len(cut):
        many = count(len(cut), "caption is", "captions are")
        notes.append(f"{many} longer than the model reads: what is beyond is cut off")
    if strict and (left_out or len(cut)):
        what, why = left_out[0] if left_out else (captions[cut[0]], "too long for the model")
        flaws = len(left_out) + len(cut)
        raise TrainingDataError(
            f"{count(flaws, 'pair has', 'pairs have')} to be left out or cut, the first: "
            f"{what}: {why}",
            hint="without `--strict` they are left out or cut, and the summary counts them",
        )
    labels = _numbered([photo.label for photo in photos])
    if (labels >= 0).any() and len(np.unique(labels[labels >= 0])) == np.sum(labels >= 0):
        notes.append("each label has one photo only: held-out photos show labels never trained on")
    digest = hashlib.blake2b(digest_size=16)
    for photo, look in zip(photos, looks, strict=True):
        said = photo.captions if photo.label is None else [*photo.captions, "", photo.label]
        digest.update(look.digest + "\0".join(said).encode("utf-8", "surrogatepass") + b"\n")
    return Examples(
        origin=pairs.origin,
        pixels=pixels[: len(photos)],
        captions=captions,
        tokens=tokens,
        photo_of_caption=np.repeat(np.arange(len(photos)), [len(p.captions) for p in photos]),
        caption_ids=_numbered([normalise_caption(caption) for caption in captions]),
        labels=labels,
        groups=near_duplicates(looks),
        photo_digests=[look.digest for look in looks],
        left_out=left_out,
        notes=notes,
        digest=digest.hexdigest(),
    )


def read_picture(path: Path, side_px: int) -> tuple[bytes, Image.Image, PhotoFacts]:
    """Digest, RGB picture and facts of one photo.

    Raises:
        SkippedPhoto: it cannot be read.
    """
    from clipsearch.photos.decode import decode_photo

    photo = decode_photo(path, side_px=side_px)
    assert photo.image is not None
    assert photo.facts is not None
    return photo.digest, photo.image, photo.facts


def split_photos(examples: Examples, *, validation: float, test: float, seed: int) -> Split:
    """Split by photo, groups whole, the same way for the same seed.

    Args:
        validation, test: shares of the photos, or their number when 1 or more.
    Raises:
        TrainingDataError: too few photos, or nothing to tell one from another by.
    """
    total = len(examples)
    if total < FEWEST_PHOTOS:
        raise TrainingDataError(
            f"{count(total, 'photo is', 'photos are')} too few to train on: some must teach, some "
            "choose, some judge",
            hint=f"{FEWEST_PHOTOS} is the least; a hundred and more are worth the time",
        )
    order = np.random.default_rng([seed, 1]).permutation(np.unique(examples.groups))
    members: dict[int, list[int]] = {int(group): [] for group in order}
    for row, group in enumerate(examples.groups):
        members[int(group)].append(row)
    wanted = [_number(test, total), _number(validation, total)]
    taken: list[list[int]] = [[], []]
    train: list[int] = []
    for rows in members.values():
        for side, number in zip(taken, wanted, strict=True):
            if len(side) + len(rows) <= number:
                side += rows
                break
        else:
            train += rows
    if any(len(side) < 2 for side in (train, *taken)):
        raise TrainingDataError(
            f"{total} photos cannot be split: {len(train)} would teach, {len(taken[1])} choose and "
            f"{len(taken[0])} judge (look-alikes and bursts stay on one side)",
            hint="bring more unlike photos, or change `--validation` and `--test`",
        )
    chosen, _ = examples.captions_of(np.array(train))
    if len(np.unique(examples.caption_ids[chosen])) < 2:
        raise TrainingDataError(
            "all photos to train on have one and the same caption: there is nothing to tell apart",
            hint="captions should say what makes each photo different",
        )
    test_rows, validation_rows = (np.array(sorted(side), dtype=np.int64) for side in taken)
    return Split(np.array(sorted(train), dtype=np.int64), validation_rows, test_rows)


def epoch_batches(
    examples: Examples, photos: IntArray, batch_size: int, epoch: int, seed: int
) -> list[Batch]:
    """All photos once, in batches in which no photo and no caption occurs twice.

    A photo's captions are drawn in turn, one an epoch, from a start of its own. Where captions
    repeat too much for full batches these are shorter; what fits in none of at least half the
    first one's size waits for another epoch.
    """
    order = np.random.default_rng([seed, 2, epoch]).permutation(photos)
    first_turn = np.random.default_rng([seed, 3]).integers(0, 1 << 30, len(examples))
    starts = np.searchsorted(examples.photo_of_caption, np.arange(len(examples) + 1))
    counts = np.diff(starts)
    drawn = starts[:-1] + (first_turn + epoch) % counts
    size = min(batch_size, len(photos))
    waiting = deque(int(row) for row in order)
    batches: list[Batch] = []
    while waiting:
        rows: list[int] = []
        said: set[int] = set()
        clashing: list[int] = []
        while waiting and len(rows) < size:
            row = waiting.popleft()
            words = int(examples.caption_ids[drawn[row]])
            if words in said:
                clashing.append(row)
            else:
                said.add(words)
                rows.append(row)
        waiting.extendleft(reversed(clashing))
        # The first is as large as they get: fewer captions than `size` must not cost photos.
        if len(rows) < 2 or (batches and 2 * len(rows) < len(batches[0].photos)):
            break
        batch = np.array(rows, dtype=np.int64)
        batches.append(Batch(batch, drawn[batch]))
    return batches


def refuse_flips_of_sides(examples: Examples) -> None:
    """Raise if mirroring a photo would make one of its captions untrue.

    Raises:
        TrainingDataError: a caption speaks of left, right, or of writing.
    """
    for caption in examples.captions:
        if found := _SIDES_OR_WRITING.search(caption):
            raise TrainingDataError(
                f"photos cannot be mirrored: a caption speaks of {found[0]!r} ({caption!r})",
                hint="leave out `--flip`",
            )


# ------------------------------------------------------------------------- near-duplicates


class _Look(NamedTuple):
    """What tells look-alikes: a difference hash, a tiny colour picture, and when and with what."""

    digest: bytes
    hash: int
    thumbnail: npt.NDArray[np.float32]
    taken_s: float | None
    camera: str | None

    @classmethod
    def of(cls, digest: bytes, image: Image.Image, facts: PhotoFacts) -> _Look:
        from PIL.Image import Resampling

        grey = np.asarray(image.convert("L").resize((9, 8), Resampling.BOX), dtype=np.int16)
        bits = np.packbits(grey[:, 1:] > grey[:, :-1])
        small = np.asarray(image.resize((8, 8), Resampling.BOX), dtype=np.float32)
        taken = datetime.fromisoformat(facts.taken_at).timestamp() if facts.taken_at else None
        return cls(digest, int.from_bytes(bits.tobytes()), small.ravel(), taken, facts.camera)


def near_duplicates(looks: Sequence[_Look]) -> IntArray:
    """(N,) group numbers: photos that look alike, or that one camera took within seconds.

    Alike: at most 6 of the 64 bits of their difference hashes unlike, and tiny colour pictures
    within 10 grey levels on average; the second keeps apart flat pictures of other colours.
    """
    group = np.arange(len(looks))

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = int(group[row])
        return row

    def unite(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        group[high] = low

    hashes = np.array([look.hash for look in looks], dtype=np.uint64)
    for row in range(len(looks) - 1):
        later = np.bitwise_count(hashes[row + 1 :] ^ hashes[row])
        for other in (np.flatnonzero(later <= _NEAR_HASH_BITS) + row + 1).tolist():
            apart = np.abs(looks[row].thumbnail - looks[other].thumbnail).mean()
            if apart <= _NEAR_GREY_LEVELS:
                unite(row, other)
    timed = sorted(
        (look.camera or "", look.taken_s, row)
        for row, look in enumerate(looks)
        if look.taken_s is not None
    )
    for (camera, taken, first), (next_camera, next_taken, second) in itertools.pairwise(timed):
        if camera == next_camera and next_taken - taken <= _BURST_S:
            unite(first, second)
    return np.array([root(row) for row in range(len(looks))], dtype=np.int64)


# ------------------------------------------------------------------------- small things


def _room_for_pixels(photos: int, side: int) -> UInt8Array:
    shape = (photos, side, side, 3)
    if np.prod(shape, dtype=np.int64) <= _PIXELS_IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    try:  # unnamed: gone with the process, whatever ends it
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise StorageError(
            f"no room for the pixels of {photos:,} photos in {tempfile.gettempdir()}: {error}",
            hint="set TMPDIR to a folder on a larger disk",
        ) from error


def _numbered(names: Sequence[str | None]) -> IntArray:
    numbers: dict[str, int] = {}
    fresh = itertools.count()
    return np.array(
        [-1 if n is None else numbers[n] if n in numbers else numbers.setdefault(n, next(fresh))
         for n in names],
        dtype=np.int64,
    )  # fmt: skip


def _number(share: float, total: int) -> int:
    return int(share) if share >= 1 else max(2, round(share * total))
