"""Kill `index` at random moments, again and again, and look whether anything was lost or mixed up.

    python benchmarks/kill.py --kills 1000 --seed 1

Each round changes the photo folder a little (adds, copies, moves, changes, deletes), starts a run
of `index` in a process of its own, sometimes with the other of two models, and kills it with
SIGKILL at a random moment. Then, on the library as the kill left it:

- `check` finds nothing;
- every stored vector is the vector of the photo it belongs to, under its model;
- a query gives what comparing with every vector gives.

Every twentieth run is left to its end, and must bring the library to the state of the folder.
Exit status 1 at the first thing that is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch.errors import SkippedPhoto
from clipsearch.library import Library, indexing
from clipsearch.models.runtimes.openvino_core import import_openvino
from clipsearch.photos.decode import decode_photo, digest_photo
from clipsearch.store.reader import Reader

PHOTOS = 48
FULL_RUN_EVERY = 20
# Fixed: with `auto` a run goes over to a quicker arithmetic once that has passed its trial, and
# then its vectors differ from the oracle's by more than a mix-up could be told from.
PRECISION = "fp32"


def make_photo(path: Path, generator: random.Random) -> None:
    """A small picture that no other equals."""
    pixels = np.random.default_rng(generator.getrandbits(64)).integers(0, 256, (6, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path, quality=90)


def change_folder(folder: Path, generator: random.Random) -> None:
    """A few of the things that people do to their photos."""
    for _ in range(generator.randint(2, 8)):
        photos = sorted(folder.rglob("*.jpg"))
        photo = generator.choice(photos)
        target = folder / generator.choice("abcd") / f"{generator.getrandbits(40):x}.jpg"
        target.parent.mkdir(exist_ok=True)
        deed = generator.choice(["add", "add", "copy", "move", "change", "delete", "break"])
        if deed == "add" or len(photos) < PHOTOS // 2:
            make_photo(target, generator)
        elif deed == "copy":
            shutil.copy(photo, target)
        elif deed == "move":
            photo.rename(target)
        elif deed == "change":
            make_photo(photo, generator)
        elif deed == "delete":
            photo.unlink()
        else:
            photo.write_bytes(photo.read_bytes()[:200])


def in_child(task: Callable[[], None]) -> int:
    """Run a task in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    try:
        task()
    except BaseException as error:
        print(f"the run failed by itself: {error!r}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Oracle:
    """What the vectors should be, computed apart from any library, in processes of their own."""

    def __init__(self, folder: Path, models: list[str]) -> None:
        self._folder = folder
        self._models = models
        self._known: dict[tuple[str, bytes], np.ndarray] = {}

    def learn(self, photos: list[Path]) -> None:
        """Compute the vectors of the photos that are not known yet."""
        fresh: dict[bytes, Path] = {}
        for photo in photos:
            try:
                digest = digest_photo(photo)
            except SkippedPhoto:
                continue
            if (self._models[0], digest) not in self._known:
                fresh[digest] = photo
        if not fresh:
            return
        out = self._folder / "oracle.npz"
        child = in_child(lambda: self._encode(fresh, out))
        if finish(child):
            raise SystemExit("the oracle failed")
        with np.load(out) as answers:
            for key in answers.files:
                model, digest = key.split("|")
                self._known[self._models[int(model)], bytes.fromhex(digest)] = answers[key]

    def _encode(self, photos: dict[bytes, Path], out: Path) -> None:
        from clipsearch.models import load_encoder

        answers = {}
        for number, model in enumerate(self._models):
            encoder = load_encoder(model, precision=PRECISION)
            for digest, photo in photos.items():
                try:
                    image = decode_photo(photo, side_px=encoder.preprocess.source_px).image
                except SkippedPhoto:
                    continue
                assert image is not None
                pixels = encoder.preprocess.pixels(image)[np.newaxis]
                answers[f"{number}|{digest.hex()}"] = encoder.images(pixels)[0]
        np.savez(out, **answers)

    def vector(self, model: str, digest: bytes) -> np.ndarray | None:
        return self._known.get((model, digest))


def verify(library: Library, oracle: Oracle, generator: random.Random) -> list[str]:
    """Everything that is wrong with the library as it lies on the disk."""
    if not (library.folder / "catalog.sqlite").exists():
        return []
    wrong = [finding.message for finding in library.check() if finding.is_damage]
    with Reader.open(library.folder) as reader:
        digests = dict(reader.connection.execute("SELECT id, digest FROM photo"))
        for model in reader.models():
            rows = reader.stored_rows(model.id)
            if not len(rows):
                continue
            stored = reader.vectors(model.id, rows)
            owner = dict(
                reader.connection.execute(
                    "SELECT row, photo_id FROM embedding WHERE model_id = ?", (model.id,)
                )
            )
            for row, vector in zip(rows.tolist(), stored, strict=True):
                expected = oracle.vector(model.name, digests[owner[row]])
                # float16 storage and another order of sums: measured below 5e-4.
                if expected is not None and np.abs(vector - expected).max() > 2e-3:
                    wrong.append(f"row {row} of {model.name} is not the vector of its photo")
            if model.active:
                wrong += verify_search(library, reader, generator)
    return wrong


def verify_search(library: Library, reader: Reader, generator: random.Random) -> list[str]:
    """A query by a photo of the library against a plain comparison with every live vector."""
    model = reader.active_model()
    assert model is not None
    live = np.setdiff1d(
        reader.stored_rows(model.id), reader.tombstones(model.id), assume_unique=True
    )
    if not len(live):
        return []
    place = reader.places(model.id, live)[int(generator.choice(live.tolist()))]
    try:
        known = reader.rows_of_digest(model.id, digest_photo(place.paths[0]))
    except SkippedPhoto:
        return []  # moved, deleted or broken since
    if not len(known):
        return []  # another photo since
    hits = library.query(image=place.paths[0], k=10, include_self=True)
    query = reader.vectors(model.id, known)[0]
    scores = np.sort(reader.vectors(model.id, live) @ (query / np.linalg.norm(query)))[::-1][:10]
    # Two sums of the same float32 products in another order.
    if len(hits) != len(scores) or np.abs(scores - [hit.score for hit in hits]).max() > 1e-5:
        return ["a query does not give what comparing with every vector gives"]
    return []


def verify_complete(library: Library, folder: Path) -> list[str]:
    """Whether the library holds just the photos of the folder that can be read."""
    readable = set()
    for photo in folder.rglob("*.jpg"):
        try:
            decode_photo(photo, side_px=32)
        except SkippedPhoto:
            continue
        readable.add(str(photo))
    with Reader.open(library.folder) as reader:
        model = reader.active_model()
        assert model is not None
        rows = reader.stored_rows(model.id)
        held = {path for one in reader.places(model.id, rows).values() for path in one.paths}
    if held != readable:
        return [f"after a whole run {len(held ^ readable)} files are not as in the folder"]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other-model", required=True, help="a second model directory")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    # Every batch is committed at once, so that kills fall between many commits.
    indexing.COMMIT_SECONDS = 0.0
    # Imported before the forks, so that a run is mostly its work.
    import sqlalchemy  # noqa: F401

    import_openvino()

    models = ["pocket", str(Path(options.other_model).resolve())]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "photos"
        for number in range(PHOTOS):
            make_photo(folder / "a" / f"{number}.jpg", generator)
        library = Library.open(Path(work) / "library", precision=PRECISION)
        oracle = Oracle(Path(work), models)
        model = models[0]
        length = 1.0
        kills = rounds = 0
        while kills < options.kills:
            rounds += 1
            change_folder(folder, generator)
            oracle.learn(sorted(folder.rglob("*.jpg")))
            if generator.random() < 0.1:
                model = generator.choice(models)
            started = time.perf_counter()
            child = in_child(lambda model=model: library.index([folder], model=model))
            wrong = []
            if rounds % FULL_RUN_EVERY == 0:
                if finish(child):
                    wrong.append("a run that nobody killed failed")
                length = time.perf_counter() - started
                wrong += verify_complete(library, folder)
            else:
                time.sleep(generator.random() * length)
                os.kill(child, signal.SIGKILL)
                kills += finish(child) == -signal.SIGKILL
            wrong += verify(library, oracle, generator)
            if wrong:
                print(json.dumps({"kills": kills, "seed": options.seed, "wrong": wrong}, indent=1))
                return 1
        print(json.dumps({"kills": kills, "rounds": rounds, "seed": options.seed, "wrong": []}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
