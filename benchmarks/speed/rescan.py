"""Looking again: a library of 100,000 files of which none changed, and ten new among 10,000.

    python -m benchmarks.speed.rescan WORK [--rounds 5]

The known files are real but tiny, and their rows are written straight into the catalogue and into
rclip's database: nothing of a file that did not change is read. The ten new ones are real photos.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from benchmarks.speed import libraries, measure, models, peer

NEW = 10


def make_files(folder: Path, count: int) -> None:
    """Files of a few bytes that pass for photos as long as nobody opens them."""
    if folder.exists():
        return
    draft = folder.with_name(folder.name + "-draft")
    for number in range(count):
        path = draft / libraries.photo_path(number)
        if number % 1000 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo %d" % number)
    draft.rename(folder)


def make_library(library: Path, photos: Path) -> None:
    """A library that knows every file in `photos`, through the catalogue's own writer."""
    if (library / "made").exists():
        return
    from clipsearch.library import Library
    from clipsearch.models import load_encoder
    from clipsearch.photos.scan import scan_folder
    from clipsearch.records import PhotoFacts
    from clipsearch.store.catalog import Catalog, Entry

    encoder = load_encoder("pocket")
    generator = np.random.default_rng(1)
    facts = PhotoFacts(1, 1, "JPEG")
    with Catalog.open(library) as catalog:
        model = catalog.add_model("pocket", encoder.fingerprints, encoder.dim)
        catalog.activate(model.id)
        root = catalog.add_root(str(photos), {})
        scan_id = catalog.begin_scan()
        for folder in scan_folder(photos):
            entries = []
            for file in folder.files:
                vector = generator.standard_normal(encoder.dim, dtype=np.float32)
                vector /= np.linalg.norm(vector)
                digest = generator.bytes(16)
                entries.append(Entry(root.id, file, digest, facts, vector))
            if entries:
                catalog.commit_batch(model.id, scan_id, entries)
        catalog.finish_scan(scan_id, {})
    Library.open(library).index()  # makes the FAISS file, if one is due
    (library / "made").touch()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    work = options.work.resolve()
    models.make(work)
    rclip = peer.install(work)
    home = work / "home"
    command = measure.clipsearch_command()

    many, library = work / "files-100000", work / "library-files-100000"
    make_files(many, 100_000)
    make_library(library, many)
    unchanged = measure.Program(
        "clipsearch, 100,000 unchanged", [command, "-q", "--library", str(library), "index"], work
    )
    runs = [run.as_dict() for run in measure.in_turn([unchanged], rounds=options.rounds, home=home)]

    some, kept = work / "files-10000", work / "library-files-10000"
    make_files(some, 10_000)
    make_library(kept, some)
    data = peer.data_folder(work, "rescan")
    kept_database = work / "rclip-rescan.sqlite3"
    if not kept_database.exists():
        generator = np.random.default_rng(2)
        draft = work / "rclip-rescan.draft"
        draft.unlink(missing_ok=True)
        peer.write_database(
            draft,
            (
                (
                    str(path),
                    path.stat().st_mtime,
                    path.stat().st_size,
                    generator.standard_normal(512, dtype=np.float32).tobytes(),
                    f"{number:064x}",
                )
                for number, path in enumerate(sorted(some.rglob("*.jpg")))
                if path.parent != some
            ),
        )
        draft.rename(kept_database)
    for photo in sorted((work / "photos/mid").iterdir())[:NEW]:
        shutil.copy(photo, some / photo.name)
    used = work / "library-files-used"

    def ours_again() -> None:
        shutil.rmtree(used, ignore_errors=True)
        shutil.copytree(kept, used)

    def theirs_again() -> None:
        shutil.copy(kept_database, data / "db.sqlite3")

    query = f"{command} --library {used} query 'a dog' -k 3"
    programs = [
        measure.Program(
            "clipsearch, 10 new in 10,000",
            ["sh", "-c", f"{command} -q --library {used} index && {query}"],
            work,
            before=ours_again,
        ),
        measure.Program(
            "rclip 4.0.8, 10 new in 10,000",
            [str(rclip), "-t", "3", "a dog"],
            some,
            {"RCLIP_DATADIR": str(data)},
            before=theirs_again,
        ),
    ]
    runs += [run.as_dict() for run in measure.in_turn(programs, rounds=options.rounds, home=home)]
    measure.write(
        "speed-rescan",
        {
            "claim": "looking at known folders again; the runs with new photos end with a query",
            "command": "clipsearch index (&& clipsearch query TEXT); rclip TEXT",
            "peer": measure.versions(
                str(rclip.parent / "python"), ("rclip", "onnxruntime", "numpy")
            ),
        },
        runs,
    )


if __name__ == "__main__":
    main()
