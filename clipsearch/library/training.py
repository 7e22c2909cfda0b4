"""Where library and training meet: tune a model on pairs, put it to work, measure models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.errors import LibraryLocked, NoLibrary, PhotoFolderError, UsageError
from clipsearch.library import Library
from clipsearch.library.reports import IndexReport, Progress

if TYPE_CHECKING:
    from clipsearch.store.reader import Root
    from clipsearch.train import TrainingProgress, TrainingReport
    from clipsearch.train.evaluate import ProbeFigures, RetrievalFigures, ZeroShotFigures


def finetune(
    library: Library,
    pairs: Path | str | None,
    *,
    output: Path,
    model: str | None = None,
    options: Mapping[str, Any],
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str, str | None], None] | None = None,
    **more: Any,
) -> TrainingReport | None:
    """`clipsearch.train.finetune` with this library's model as the base and its photos for drift.

    Args:
        model: the base; None: the model that the library uses, else pocket.
        options: fields of `clipsearch.train.Settings`.
        warn: called with what is not as it should be, and what to do about it.
        more: `guard`, `photos_folder`, `from_scratch`, `resume`.
    Raises:
        PhotoFolderError: the library's own captions are wanted, and none of its folders is there.
    """
    from clipsearch.train import Settings
    from clipsearch.train import finetune as train

    if pairs is None:
        _refuse_if_all_are_away(library)
    return train(
        pairs,
        output=output,
        model=model or model_in_use(library),
        settings=Settings(**options),
        library_photos=_photos(library, warn or (lambda message, hint: None)),
        device=device,
        threads=threads,
        progress=progress,
        say=say,
        warn=warn,
        **more,
    )


def apply(
    library: Library,
    report: TrainingReport,
    *,
    wait: bool = False,
    progress: Callable[[Progress], Any] | None = None,
) -> IndexReport:
    """Embed the library with the tuned model, side by side, and let it answer once all are.

    Raises:
        NoLibrary: there are no photos to embed yet.
        LibraryLocked: another process is writing, and `wait` is not set.
    """
    if not _roots(library):
        raise NoLibrary(
            f"there is no library yet to put the model to work in (looked in {library.folder})",
            hint=f"make one with `clipsearch index ~/Pictures --model {report.output}`",
        )
    try:
        return library.index(model=str(report.output.absolute()), wait=wait, progress=progress)
    except LibraryLocked as error:
        # The same command again would find a finished run, with `--wait` too.
        raise LibraryLocked(
            f"{error}; the run is finished, its model is in {report.output}",
            hint="put it to work when the other has finished: "
            f"`clipsearch index --model {report.output}`",
        ) from error


def evaluate(
    library: Library,
    *,
    models: Sequence[str] = (),
    pairs: Path | str | None = None,
    classes: Path | str | None = None,
    probe: Path | str | None = None,
    captions: str = "all",
    photos_folder: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[RetrievalFigures | ZeroShotFigures | ProbeFigures]:
    """What was asked for, of each model in turn; no `models`: the one that the library uses.

    Several are all computed in fp32 where `precision` is `auto`, which would choose for each alone:
    a difference between two of them is then never one of arithmetic.
    """
    from clipsearch.models import load_encoder
    from clipsearch.train.evaluate import evaluate_probe, evaluate_retrieval, evaluate_zero_shot

    if captions not in ("all", "first"):
        raise UsageError(f"no such rule for captions: {captions!r}", hint="all or first")
    if len(models) > 1 and precision == "auto":
        precision = "fp32"
    figures: list[RetrievalFigures | ZeroShotFigures | ProbeFigures] = []
    wanted = any(source is not None for source in (pairs, classes, probe))
    for name in (models or [model_in_use(library)]) if wanted else ():
        encoder = load_encoder(name, device=device, precision=precision, threads=threads)
        if pairs is not None:
            figures.append(
                evaluate_retrieval(
                    pairs,
                    encoder,
                    captions="first" if captions == "first" else "all",
                    photos_folder=photos_folder,
                    progress=progress,
                )
            )
        if classes is not None:
            figures.append(
                evaluate_zero_shot(classes, encoder, photos_folder=photos_folder, progress=progress)
            )
        if probe is not None:
            figures.append(
                evaluate_probe(probe, encoder, photos_folder=photos_folder, progress=progress)
            )
    return figures


def index_recall(library: Library) -> dict[str, float] | None:
    """recall@10 of the library's search index against an exact search, by kind of query.

    None where there is no index, and every vector is compared.

    Raises:
        NoLibrary, LibraryInTheWay.
    """
    from clipsearch.store.ann import measure_recall
    from clipsearch.store.reader import Reader

    with Reader.open(library.folder) as reader:
        active = reader.active_model()
        return None if active is None else measure_recall(library.folder, reader, active)


def model_in_use(library: Library) -> str:
    """The library's active model; for a library yet to come CLIPSEARCH_MODEL, else pocket."""
    from clipsearch.store.reader import Reader

    if library.exists():
        with Reader.open(library.folder) as reader:
            if active := reader.active_model():
                return active.name
    return os.environ.get("CLIPSEARCH_MODEL") or "pocket"


def _refuse_if_all_are_away(library: Library) -> None:
    from clipsearch.library.roots import why_unavailable

    roots = _roots(library)
    away = [(root.path, why) for root, known in roots if (why := why_unavailable(root.path, known))]
    if roots and len(away) == len(roots):
        raise PhotoFolderError(
            "no pairs were named, and none of the library's folders can be read: "
            + "; ".join(f"{path}: {why}" for path, why in away),
            hint="connect the disk that they are on, or name PAIRS",
        )


def can_be_resumed(output: Path) -> bool:
    """Whether a run's folder has a state to go on from."""
    from clipsearch.train.states import LAST

    return (output / "state" / LAST).exists()


def _photos(library: Library, warn: Callable[[str, str | None], None]) -> Iterator[Path]:
    """What the library's folders hold now, but for what is excluded and for disks that are away."""
    from clipsearch.library.roots import scan_root, why_unavailable

    roots = _roots(library)
    for root, known_files in roots:
        if reason := why_unavailable(root.path, known_files):
            warn(
                f"{root.path}: {reason}; its photos take no part in this run",
                "connect it and begin again if they should",
            )
            continue
        for folder in scan_root(root, [other for other, _ in roots]):
            yield from (Path(root.path, file.relative_path) for file in folder.files)


def _roots(library: Library) -> list[tuple[Root, int]]:
    """The library's roots, and how many files are known below each; none of one yet to come."""
    from clipsearch.store.reader import Reader

    if not library.exists():
        return []
    with Reader.open(library.folder) as reader:
        return [(root, reader.count_files(root.id)) for root in reader.roots()]
