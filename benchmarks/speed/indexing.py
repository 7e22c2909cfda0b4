"""Indexing: photos a second and peak memory of whole runs, ours and the peers' in turn.

    python -m benchmarks.speed.indexing PHOTOS WORK [--rounds 3] [--rclip-alone] [--name NAME]

Every run starts with an empty library and ends with one answered query, since a run of rclip does.
Converted towers, verdicts on precision (`runtimes/trial.py`) and compiled Python files are there
already, as they are from the second use on; `first` in the results is our first run ever.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed import measure, models, peer, photos

QUESTION = "a dog on a beach"


def ours(work: Path, kind: str, model: str, name: str, precision: str = "auto") -> measure.Program:
    library = work / f"indexed-{Path(model).name}-{kind}"
    clipsearch = f"{shlex.quote(measure.clipsearch_command())} -q --library {library.name}"
    script = (
        f"{clipsearch} --precision {precision} index --model {model} photos/{kind}"
        f" && {clipsearch} query {shlex.quote(QUESTION)} -k 3"
    )
    return measure.Program(name, ["sh", "-c", script], work, before=measure.fresh(library))


def theirs(work: Path, kind: str, rclip: Path) -> measure.Program:
    data = peer.data_folder(work, f"indexing-{kind}")

    def empty() -> None:
        for file in data.glob("db.sqlite3*"):
            file.unlink()

    return measure.Program(
        "rclip 4.0.8, ViT-B-32-256",
        [str(rclip), "-t", "3", QUESTION],
        work / "photos" / kind,
        {"RCLIP_DATADIR": str(data)},
        before=empty,
    )


def plain(work: Path, kind: str) -> measure.Program:
    script = Path(__file__).with_name("plain_loop.py")
    model, output = work / "models" / models.NAME, work / "plain-loop.npy"
    command = [sys.executable, str(script), str(model), str(work / "photos" / kind), str(output)]
    return measure.Program("a loop with open_clip, ViT-B-32-256", command, work, rounds=1)


def clip_retrieval(work: Path, kind: str, python: Path) -> measure.Program:
    script = Path(__file__).with_name("clip_retrieval_loop.py")
    weights, output = work / "models" / models.NAME / models.WEIGHTS, work / "clip-retrieval"
    command = [str(python), str(script), str(weights), str(work / "photos" / kind), str(output)]
    name = "clip-retrieval 2.45.0, ViT-B-32-256"
    return measure.Program(name, command, work, before=measure.fresh(output), rounds=1)


def verdicts(cache: Path, work: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What the trials of precisions found, by 'MODEL, PRECISION'."""
    from clipsearch.models import load_encoder

    models_of = {
        load_encoder(name if name == "pocket" else work / name).fingerprints.image: Path(name).name
        for name in names
    }
    found = measure.read_json(cache / "precision.json") or {}
    # A key is fingerprint, precision and processor.
    parted = {tuple(key.split(", ")[:2]): verdict for key, verdict in found.items()}
    return {f"{models_of[mark]}, {kind}": verdict for (mark, kind), verdict in parted.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rclip-alone", action="store_true", help="no other peer")
    parser.add_argument("--name", default="speed-indexing", help="of the results")
    options = parser.parse_args()
    work = options.work.resolve()
    photos.make(options.photos, work)
    models.make(work)
    rclip = peer.install(work)
    inference = None if options.rclip_alone else peer.install_clip_retrieval(work)
    home = work / "home"
    vit, smaller = f"models/{models.NAME}", f"models/{models.SMALLER}"
    shutil.rmtree(home / ".cache" / "clipsearch", ignore_errors=True)
    first = [
        measure.time_once(ours(work, "mid", model, model), 0, home)
        for model in ("pocket", vit, smaller)
    ]
    # A transformer tries int8 in its first run; where that fails, bfloat16 in its second.
    for model in (vit, smaller):
        measure.time_once(ours(work, "mid", model, model), 0, home)
    runs: list[dict[str, Any]] = []
    for kind in ("mid", "big"):
        programs = [
            ours(work, kind, "pocket", "clipsearch, pocket"),
            ours(work, kind, vit, "clipsearch, ViT-B-32-256"),
            ours(work, kind, smaller, "clipsearch, ViT-B-32 at 224 px"),
            theirs(work, kind, rclip),
        ]
        if inference:
            programs += [plain(work, kind), clip_retrieval(work, kind, inference)]
        # The peer alone needs a warm-up still, for its compiled files and the page cache.
        if kind == "mid":
            programs.insert(1, ours(work, kind, "pocket", "clipsearch, pocket in fp32", "fp32"))
        runs += [
            {**run.as_dict(), "photos": kind}
            for run in measure.in_turn(programs, rounds=options.rounds, home=home, warm_up=0)
        ]
        content = {
            "claim": "indexing whole folders, start-up and one query included",
            "command": "clipsearch index --model M photos/KIND && clipsearch query ...; rclip ...",
            "photos": {
                kind: {
                    "count": len(files := list((work / "photos" / kind).iterdir())),
                    "mean_bytes": sum(file.stat().st_size for file in files) // len(files),
                }
                for kind in ("mid", "big")
            },
            "peer": measure.versions(
                str(rclip.parent / "python"), ("rclip", "onnxruntime", "numpy", "pillow")
            ),
            "verdicts": verdicts(home / ".cache" / "clipsearch", work, ("pocket", vit, smaller)),
            "first": [run.as_dict() for run in first],
        }
        if inference:
            content["second_peer"] = measure.versions(
                str(inference), ("clip-retrieval", "torch", "open_clip_torch", "numpy")
            )
        # After each kind: a machine that is taken away in between leaves the first.
        measure.write(options.name, content, runs)


if __name__ == "__main__":
    main()
