"""Bringing open_clip's pretrained models into the `local-dir:` form, as safetensors.

open_clip downloads, verifies and converts (OpenAI's and Apple's checkpoints have formats of their
own); what it then holds is written out with a configuration that says everything: QuickGELU,
preprocessing, and for models of the `transformers` package their tokenizer and text settings.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipsearch.errors import ModelError, StorageError
from clipsearch.models.config import CONFIG_NAME, WEIGHTS_NAME
from clipsearch.models.runtimes.torch_towers import NEEDS_TRANSFORMERS
from clipsearch.models.torchvision_shim import import_open_clip

# How open_clip words a download that failed, in RuntimeErrors of its own.
_FAILED_DOWNLOAD = re.compile("download|from HF Hub|HTTP Error|urlopen")


def fetch(target: str, folder: Path) -> None:
    """Download ARCH/TAG or hf-hub:OWNER/NAME through open_clip into an empty folder.

    Files land in the Hugging Face cache first, as with any program that uses it; a download that
    broke off goes on from there, and what is in it already is not fetched again.

    Raises:
        OSError: it cannot be fetched.
        ModelError: it needs an extra, or open_clip cannot build it.
    """
    open_clip = import_open_clip()
    with _hub():
        _fetch(open_clip, target, folder)


def _fetch(open_clip: Any, target: str, folder: Path) -> None:
    if target.startswith("hf-hub:"):
        _fetch_hub(open_clip, target, folder)
        return
    arch, _, tag = target.partition("/")
    config = open_clip.get_model_config(arch)
    details = open_clip.get_pretrained_cfg(arch, tag)
    if config is None or not details:
        raise ModelError(f"open_clip has no weights {target}")
    # A tag that was trained with QuickGELU loads into the plain architecture with a mere warning,
    # and its vectors are wrong.
    config["quick_gelu"] = bool(details.get("quick_gelu") or config.get("quick_gelu", False))
    _check_extra(target, config)
    model = open_clip.create_model(
        arch, pretrained=tag, force_quick_gelu=config["quick_gelu"], require_pretrained=True
    )
    _save(open_clip, model, config, folder, tokenizer_of=arch)


def _fetch_hub(open_clip: Any, target: str, folder: Path) -> None:
    config = open_clip.get_model_config(target)
    _check_extra(target, config)
    model = open_clip.create_model(target, require_pretrained=True)
    _save(open_clip, model, config, folder, tokenizer_of=target)


def convert_pickled(source: Path, folder: Path) -> None:
    """Write a directory's pickled weights as safetensors; loaded with `weights_only`.

    Raises:
        ModelError: open_clip cannot load them.
    """
    open_clip = import_open_clip()
    try:
        model = open_clip.create_model(f"local-dir:{source}", require_pretrained=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"open_clip cannot load {source}: {error}") from error
    _save_weights(model, folder / WEIGHTS_NAME)


def _check_extra(target: str, config: Mapping[str, Any]) -> None:
    from importlib.util import find_spec

    text = config["text_cfg"]
    hub_words = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    if hub_words and find_spec("transformers") is None:
        raise ModelError(
            f"{target} reads words through the transformers package, which is not installed",
            hint=NEEDS_TRANSFORMERS,
        )


def _save(
    open_clip: Any, model: Any, config: dict[str, Any], folder: Path, *, tokenizer_of: str
) -> None:
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        open_clip.get_tokenizer(tokenizer_of).save_pretrained(folder)
    if text.get("hf_model_name"):
        model.text.config.save_pretrained(folder)  # lets the tower be built offline
    content = {"model_cfg": config, "preprocess_cfg": dict(model.visual.preprocess_cfg)}
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _save_weights(model, folder / WEIGHTS_NAME)


def _save_weights(model: Any, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its own wrapping of a full disk
        raise StorageError(f"{path} cannot be written: {error}") from error


@contextmanager
def _hub() -> Iterator[None]:
    """Reach the hub, or take what its cache on this machine holds where it cannot be reached.

    Hub clients try again for a minute before they give up, file by file; one look at the
    connection tells the same at once.

    Raises:
        OSError: the hub cannot be reached and the cache lacks a file, or the hub refuses.
        ModelError: open_clip cannot build the model.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    reachable = _reachable(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_OFFLINE = before[0] or not reachable
    constants.HF_HUB_DISABLE_TELEMETRY = True
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # open_clip logs what it raises as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (HfHubHTTPError, FileNotFoundError, RuntimeError) as error:
        if not isinstance(error, RuntimeError) or _FAILED_DOWNLOAD.search(str(error)):
            reason = str(error) if reachable else f"{constants.ENDPOINT} cannot be reached"
            raise OSError(reason) from error
        raise ModelError(f"open_clip cannot make this model: {error}") from error
    finally:
        logging.disable(quiet)
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = before


def _reachable(endpoint: str) -> bool:
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if getproxies():  # the proxy knows, not this machine
        return True
    address = urlsplit(endpoint)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except OSError:
        return False
    return True
