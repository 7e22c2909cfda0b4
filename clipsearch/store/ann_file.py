"""The FAISS file of a model on disk: its facts, its digests, and how it comes into place.

In `ann/<image fingerprint>/` lie `index.faiss` and `index.json`; the second names the rows covered,
the parameters, the digests, and why the parameters are what they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

from clipsearch.records import Float32Array
from clipsearch.store.failures import from_system
from clipsearch.store.reader import Model

FORMAT = 2

Notice = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """What `index.json` says.

    Attributes:
        rows: the file covers the rows [0, rows) of the model, `vectors` of them were alive.
        nprobe: lists to look at, by how many of the best vectors must be among them.
        code_error: no code is farther from its vector, so none is off by more about the dot product
            with a unit query.
        exact: no number of lists below all of them reached the recall: all are looked at.
        recall: measured recall@10 at the chosen nprobe, by kind of query.
        why: the choice in words, for `status`.
        trained_vectors, trained_nprobe: when the lists were last made, for deciding when to make
            them anew.
        witnesses: rows and digests of their vectors, to tell a file of another catalogue.
    """

    format: int
    model_id: int
    image_fingerprint: str
    dim: int
    rows: int
    vectors: int
    nlist: int
    nprobe: dict[str, int]
    code_error: float
    exact: bool
    recall: dict[str, float]
    why: str
    trained_vectors: int
    trained_nprobe: int
    file_bytes: int
    digest: str
    head_bytes: int
    head_digest: str
    witnesses: list[tuple[int, str]]


def place(folder: Path, model: Model) -> Path:
    """Where the two files of a model lie."""
    return folder / "ann" / model.image_fingerprint


def remove(folder: Path, model: Model) -> None:
    """Take the files of a model away, if there are any."""
    shutil.rmtree(place(folder, model), ignore_errors=True)


def damaged(what: str) -> Notice:
    """What the user is told where the file cannot be used."""
    return (
        f"the FAISS file is damaged ({what}): searching exactly, which is slower",
        "`clipsearch check --repair` rebuilds it from the catalogue; no photo is read again",
    )


OUTDATED: Notice = (
    "the FAISS file is of another version of clipsearch: searching exactly, which is slower",
    "the next `clipsearch index`, or `clipsearch check --repair`, rebuilds it from the catalogue",
)


def read_text(folder: Path, model: Model) -> bytes | None:
    """`index.json`, or None where there is none."""
    try:
        return (place(folder, model) / "index.json").read_bytes()
    except OSError:
        return None


def parse(text: bytes) -> IndexFacts | None:
    """The facts in `index.json`; None where another version of clipsearch wrote them.

    Raises:
        ValueError, TypeError, KeyError: they are damaged.
    """
    values = json.loads(text)
    if isinstance(values["format"], int) and values["format"] != FORMAT:
        return None
    facts = IndexFacts(**values)
    if facts.format != FORMAT or not facts.nprobe:
        raise ValueError(facts.format)
    return facts


def problem(folder: Path, model: Model, facts: IndexFacts) -> str:
    """What keeps the file from being mapped; '' for nothing. FAISS is not needed to tell."""
    path = place(folder, model) / "index.faiss"
    if facts.model_id != model.id or facts.image_fingerprint != model.image_fingerprint:
        return "it is of another model"
    if facts.dim != model.dim:
        return "it is of another dimension"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != facts.file_bytes:
                return f"{size:,} of {facts.file_bytes:,} bytes"
            head = file.read(facts.head_bytes)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if blake2b(head, digest_size=16).hexdigest() != facts.head_digest:
        return "checksum"
    return ""


def publish(
    folder: Path, model: Model, write: Callable[[Path], None], tail_bytes: int, facts: IndexFacts
) -> IndexFacts:
    """Put both files in their place: whole, on the disk, and only then under their names.

    Args:
        write: writes the FAISS file; RuntimeError is its word for a full disk.
        tail_bytes: of them the lists take up, at its end; what is before is the head.
    Returns:
        The facts with sizes and digests.
    """
    target = place(folder, model)
    draft = target / "index.faiss.draft"
    try:
        target.mkdir(parents=True, exist_ok=True)
        try:
            try:
                write(draft)
            except RuntimeError as error:
                raise OSError(_errno_of(error), str(error).splitlines()[-1]) from error
            size = draft.stat().st_size
            head_bytes = size - tail_bytes
            digest, head_digest = file_digests(draft, head_bytes)
            facts = replace(
                facts,
                file_bytes=size,
                digest=digest,
                head_bytes=head_bytes,
                head_digest=head_digest,
            )
            _sync(draft)
            # A reader between the two renames finds no index.json, and searches exactly.
            (target / "index.json").unlink(missing_ok=True)
            os.replace(draft, target / "index.faiss")
            words = target / "index.json.draft"
            words.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
            _sync(words)
            os.replace(words, target / "index.json")
            _sync(target)
        finally:
            draft.unlink(missing_ok=True)
            (target / "index.json.draft").unlink(missing_ok=True)
    except OSError as error:
        raise from_system(error, folder) from error
    return facts


def _errno_of(error: RuntimeError) -> int:
    import errno

    return errno.ENOSPC if "No space left" in str(error) else errno.EIO


def _sync(path: Path) -> None:
    """Bytes must be down before a name points at them, and names before anybody relies on them."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there; NTFS logs renames
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(path: Path, facts: IndexFacts) -> bool:
    """Whether every byte of the FAISS file is what was written."""
    try:
        return file_digests(path, facts.head_bytes)[0] == facts.digest
    except FileNotFoundError:
        return False


def file_digests(path: Path, head_bytes: int) -> tuple[str, str]:
    """blake2b of the whole file and of its first bytes, 32 hexadecimal digits each."""
    whole = blake2b(digest_size=16)
    with path.open("rb") as file:
        head = file.read(head_bytes)
        whole.update(head)
        while part := file.read(1 << 20):
            whole.update(part)
    return whole.hexdigest(), blake2b(head, digest_size=16).hexdigest()


def vector_digest(vector: Float32Array) -> str:
    """blake2b of a stored vector (D,), 16 hexadecimal digits."""
    return blake2b(vector.astype("<f2").tobytes(), digest_size=8).hexdigest()
