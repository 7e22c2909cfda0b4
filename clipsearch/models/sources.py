"""Names of models -> directories on this machine, and the ways in and out of them.

    pocket                    package data beside this file
    default, better, ...      presets (`presets.py`): names for ARCH/TAG
    ARCH/TAG                  open_clip's pretrained weights     MODELS/ARCH--TAG
    hf-hub:OWNER/NAME         a model on the Hugging Face hub    MODELS/hf-hub--OWNER--NAME
    NAME                      what was imported under that name  MODELS/NAME
    a path, local-dir:PATH    a directory of open_clip's form

MODELS is `CLIPSEARCH_MODELS`, or `models` in the platform's user data folder. Only `pull` uses
the network.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipsearch.errors import ModelError, ModelUnavailable, StorageError
from clipsearch.models.config import CONFIG_NAME, read_config
from clipsearch.models.presets import BY_NAME, PRESETS, Preset
from clipsearch.paths import expanded

_HUB = "hf-hub:"
_LOCAL = "local-dir:"
_POCKET = Path(__file__).with_name("pocket")
_ORIGIN_NAME = "origin.json"  # what a pulled directory holds
_MODEL_SUFFIXES = {".json", ".safetensors", ".model", ".txt", ".md"}  # weights, tokenizer, card
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NAME = re.compile(r"[\w][\w.+-]*", re.ASCII)
# A half-made model is nobody's after that: no fetch takes as long without a file being added.
_ABANDONED_SECONDS = 7 * 24 * 3600


def models_folder() -> Path:
    """Where pulled and imported models are kept."""
    chosen = os.environ.get("CLIPSEARCH_MODELS")
    if chosen:
        return expanded(chosen)
    from platformdirs import user_data_path

    return user_data_path("clipsearch", appauthor=False) / "models"


def default_cache_folder() -> Path:
    """The platform's cache folder for clipsearch; all of it may be deleted at any time."""
    from platformdirs import user_cache_path

    return user_cache_path("clipsearch", appauthor=False)


def find_model(name: str | Path) -> Path:
    """The directory of a model that is on this machine.

    Raises:
        ModelUnavailable: the name is known, but its model is not here.
        ModelError: the name is neither a preset, ARCH/TAG, hf-hub:OWNER/NAME, nor a directory.
    """
    place = _place(name)
    if (place / CONFIG_NAME).is_file():
        return place
    text = str(name)
    if _is_path(name):
        if not place.is_dir():
            raise ModelError(
                f"there is no model directory {place}",
                hint="if it was moved, say where it is now: `clipsearch index --model DIR`; photos "
                "that it has embedded stay so",
            )
        read_config(place)  # says what is missing
    if _known_remote(text):
        raise _unavailable(text, place)
    raise _unknown(text)


def _is_path(name: str | Path) -> bool:
    """Whether a name can only mean a directory."""
    text = str(name)
    return (
        isinstance(name, Path)
        or text.startswith((_LOCAL, ".", "~", "/", "\\"))
        or Path(text).is_absolute()
        or ("/" in text and Path(text).is_dir())
    )


def is_here(name: str | Path) -> bool:
    """Whether `find_model` would find it."""
    return (_place(name) / CONFIG_NAME).is_file()


def _place(name: str | Path) -> Path:
    """Where a model of this name lies if it is here."""
    text = str(name)
    if text == "pocket":
        return _POCKET
    if isinstance(name, Path):
        return name
    if text.startswith(_LOCAL):
        return expanded(text.removeprefix(_LOCAL))
    target = BY_NAME[text].model if text in BY_NAME else text
    kept = models_folder() / _folder_name(target)
    if (kept / CONFIG_NAME).is_file():
        return kept
    path = expanded(text)
    return path if _is_path(name) or (path / CONFIG_NAME).is_file() else kept


def _folder_name(target: str) -> str:
    return target.replace(_HUB, "hf-hub--").replace("/", "--").replace("\\", "--")


def _known_remote(name: str) -> bool:
    """Whether `pull` could fetch it."""
    if name in BY_NAME or re.fullmatch(r"hf-hub:[^/\s]+/[^/\s]+", name):
        return True
    arch, slash, tag = name.partition("/")
    return bool(slash) and tag.replace("-", "_").lower() in _tags(arch)


def _unavailable(name: str, place: Path) -> ModelUnavailable:
    if name == "pocket":
        return ModelUnavailable(
            f"the model in the box is missing from {place}",
            hint="reinstall clipsearch: `pip install --force-reinstall clipsearch`",
        )
    preset = BY_NAME.get(name)
    what = f"{name} ({preset.model}, {preset.size_mb} MB)" if preset else name
    return ModelUnavailable(
        f"the model {what} is not on this machine (it would be in {place})",
        hint=f"fetch it with `clipsearch models pull {name}`, or bring its directory from another "
        f"machine and run `clipsearch models import DIR --name {_import_name(name)}`",
    )


def _import_name(name: str) -> str:
    """Under what name an import stands in for a pull."""
    return _folder_name(BY_NAME[name].model if name in BY_NAME else name)


def _unknown(name: str) -> ModelError:
    import difflib

    candidates = [preset.name for preset in PRESETS] + [preset.model for preset in PRESETS]
    candidates += [entry.name for entry in _kept_folders()]
    arch, slash, tag = name.partition("/")
    if slash:
        candidates += [f"{arch}/{each}" for each in _tags(arch)]
        candidates += [f"{each}/{tag}" for each in _architectures() if tag in _tags(each)]
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    hint = "see `clipsearch models` for what there is"
    if close:
        hint = f"did you mean {' or '.join(by_lower[match] for match in close)}? {hint}"
    return ModelError(
        f"there is no model {name!r}: neither a preset, an open_clip ARCH/TAG, hf-hub:OWNER/NAME, "
        "an imported model, nor a model directory",
        hint=hint,
    )


def _kept_folders() -> list[Path]:
    try:
        entries = sorted(models_folder().glob("[!.]*"))  # but for drafts and half-removed models
    except OSError:
        return []
    return [entry for entry in entries if (entry / CONFIG_NAME).is_file()]


def _tags(arch: str) -> dict[str, Any]:
    """open_clip's pretrained tags of an architecture (imports open_clip, which takes seconds)."""
    from clipsearch.models.torchvision_shim import import_open_clip

    table: dict[str, Any] = import_open_clip().pretrained._PRETRAINED.get(arch, {})
    return table


def _architectures() -> list[str]:
    from clipsearch.models.torchvision_shim import import_open_clip

    return list(import_open_clip().pretrained._PRETRAINED)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of `clipsearch models`.

    Attributes:
        preset: the name to use.
        model: ARCH/TAG, hub name, or for an imported model its architecture.
        size_mb: on disk where it is here, else what it will take.
        flickr30k, coco: published text to image recall@1 in percent.
    """

    preset: str
    model: str
    size_mb: int
    licence: str
    flickr30k: float | None
    coco: float | None
    about: str
    needs_transformers: bool
    here: bool
    path: str

    @property
    def quality(self) -> str:
        """Recall@1 on Flickr30k / COCO, as a person reads it."""
        if self.flickr30k is None and self.coco is None:
            return ""
        return " / ".join("-" if r is None else f"{r:.1f}" for r in (self.flickr30k, self.coco))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_models() -> list[ModelEntry]:
    """The presets, `pocket` first, then what else was pulled or imported."""
    entries = [_preset_entry(preset) for preset in PRESETS]
    listed = {Path(entry.path) for entry in entries}
    for folder in _kept_folders():
        if folder not in listed:
            origin = _origin(folder)
            name = origin.get("name", folder.name)
            entries.append(
                ModelEntry(
                    name, origin.get("model", ""), _size_mb(folder), origin.get("licence", ""),
                    None, None, "imported" if name == folder.name else "pulled",
                    False, True, str(folder),
                )
            )  # fmt: skip
    return entries


def _preset_entry(preset: Preset) -> ModelEntry:
    place = _place(preset.name)
    here = (place / CONFIG_NAME).is_file()
    return ModelEntry(
        preset.name, preset.model, _size_mb(place) if here else preset.size_mb, preset.licence,
        preset.flickr30k, preset.coco, preset.about, preset.needs_transformers, here, str(place),
    )  # fmt: skip


def _size_mb(folder: Path) -> int:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6)


def _origin(folder: Path) -> dict[str, str]:
    try:
        content = json.loads((folder / _ORIGIN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()}


def pull(name: str) -> Path:
    """Fetch a model over the network into the models folder; the only function that goes there.

    The directory appears whole or not at all. A model that is here already is not fetched again.

    Raises:
        ModelUnavailable: the hub cannot be reached, or does not have it.
        ModelError: an unknown name, or a model that needs an extra that is not installed.
        StorageError: it cannot be written.
    """
    if is_here(name) or _is_path(name) or not _known_remote(name):
        return find_model(name)  # or raise what is wrong with the name
    if name == "pocket":
        raise _unavailable(name, _POCKET)
    preset = BY_NAME.get(name)
    target = preset.model if preset else name
    place = models_folder() / _folder_name(target)
    with _new_directory(place) as draft:
        _fetch(target, draft, place)
        origin = {"name": target, "model": target, "licence": preset.licence if preset else ""}
        _write_json(draft / _ORIGIN_NAME, origin)
        read_config(draft)
    return place


def _fetch(target: str, draft: Path, place: Path) -> None:
    from clipsearch.models.fetching import fetch

    try:
        fetch(target, draft)
    except OSError as error:  # what hub clients raise when offline, and a full disk
        if getattr(error, "errno", None) in _DISK_ERRORS:
            raise
        raise _not_fetched(target, place, error) from error


def _not_fetched(target: str, place: Path, error: Exception) -> ModelUnavailable:
    reason = str(error).strip().partition("\n")[0]
    return ModelUnavailable(
        f"{target} could not be fetched for {place}: {reason}",
        hint="check the network and try again; or run `clipsearch models pull` on a machine that "
        "is online, `clipsearch models export` there, and `clipsearch models import DIR --name "
        f"{_import_name(target)}` here",
    )


def import_model(path: Path, name: str) -> Path:
    """Copy a model directory into the models folder under a name of its own.

    `name` may be the folder name of a pulled model (`ARCH--TAG`), which then serves its presets.
    Pickled weights (.bin, .pt) are converted to safetensors.

    Raises:
        ModelError: not a model directory, or a name that is taken or cannot be a folder's.
        StorageError: it cannot be written.
    """
    path = expanded(path)
    if not path.is_dir():
        raise ModelError(
            f"there is no model directory {path}",
            hint=f"name a folder that holds {CONFIG_NAME} and the weights",
        )
    if not (path / CONFIG_NAME).is_file():
        read_config(path)  # says what is missing
    name = _folder_name(name)
    if not _NAME.fullmatch(name) or name in BY_NAME:
        raise ModelError(
            f"{name!r} cannot be the name of an imported model",
            hint="use letters, digits, '.', '_', '+' and '-', and no preset's name",
        )
    place = models_folder() / name
    if place.exists():
        raise ModelError(
            f"there is a model {name!r} already, in {place}",
            hint=f"choose another name, or run `clipsearch models remove {name}` first",
        )
    with _new_directory(place) as draft:
        if not any(path.glob("*.safetensors")):
            from clipsearch.models.fetching import convert_pickled

            convert_pickled(path, draft)
        _copy_model(path, draft)
        read_config(draft)
    return place


def export_model(name: str | Path, folder: Path) -> Path:
    """Write a model that is here as a directory of open_clip's `local-dir:` form.

    Raises:
        ModelUnavailable, ModelError: as `find_model`; or there is something at `folder` already
            that is not an empty directory.
        StorageError: it cannot be written.
    """
    source = find_model(name)
    folder = expanded(folder)
    if folder.exists() and not (folder.is_dir() and _is_empty(folder)):
        raise ModelError(
            f"{folder} is not an empty directory", hint="name a directory that does not exist yet"
        )
    with _new_directory(folder) as draft:
        _copy_model(source, draft)
    return folder


def remove_model(name: str) -> None:
    """Delete a pulled or imported model.

    Raises:
        ModelError: it is not here, or it is not the models folder's (`pocket`, a path).
    """
    import shutil

    place = _place(name)
    if place.parent != models_folder():
        raise ModelError(
            f"{name} is not one of the pulled or imported models, so it is left alone",
            hint=f"they are in {models_folder()}",
        )
    if not place.is_dir():
        raise ModelError(
            f"there is no model {name!r} in {models_folder()}",
            hint="`clipsearch models` lists those that are here",
        )
    try:
        # Renamed first: a removal that is cut short must not leave half a model behind.
        doomed = place.with_name(f".{place.name}.{os.getpid()}.removed")
        place.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise StorageError(f"{place} cannot be removed: {error}") from error


def _copy_model(source: Path, target: Path) -> None:
    """Everything that belongs to a model and cannot run code, by content: no links, new modes."""
    import shutil

    for file in sorted(source.iterdir()):
        wanted = file.suffix in _MODEL_SUFFIXES or file.name.startswith("LICENSE")
        if wanted and file.is_file() and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


@contextmanager
def _new_directory(place: Path) -> Iterator[Path]:
    """A draft that becomes `place` when the block ends well, and goes when it does not.

    Raises:
        StorageError: the disk is full or refuses to be written, or `place` holds something.
    """
    import shutil

    # An empty directory is filled, not replaced: a shell may be in it ('.').
    there = place.is_dir()
    draft = (place if there else place.parent) / f".{place.name}.{os.getpid()}.draft"
    try:
        if there and not _is_empty(place):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        draft.mkdir(parents=True)
        _sweep()
        yield draft
        if there:
            # The configuration comes last: it makes a directory a model.
            for file in sorted(draft.iterdir(), key=lambda file: file.name == CONFIG_NAME):
                file.rename(place / file.name)
        else:
            draft.rename(place)
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error}",
            hint="is there room on the disk, and may this user write there?",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sweep() -> None:
    """Delete the drafts and half-removed models that killed commands left in the models folder."""
    import shutil

    for pattern in (".*.draft", ".*.removed"):
        for left in models_folder().glob(pattern):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)


def _write_json(path: Path, content: dict[str, str]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
