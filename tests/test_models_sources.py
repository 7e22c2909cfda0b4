"""Names of models lead to directories, and models come and go whole."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TEXT, VIT, write_model

from clipsearch.errors import ModelError, ModelUnavailable, StorageError
from clipsearch.models import (
    export_model,
    find_model,
    fingerprints,
    import_model,
    import_open_clip,
    is_here,
    list_models,
    load_encoder,
    models_folder,
    remove_model,
)
from clipsearch.models.presets import PRESETS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", vision=VIT)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty models folder."""
    monkeypatch.setenv("CLIPSEARCH_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_every_preset_is_a_model_of_open_clip_and_pocket_is_the_first():
    open_clip = import_open_clip()
    assert PRESETS[0].name == "pocket"
    for preset in PRESETS[1:]:
        arch, tag = preset.model.split("/")
        assert (arch, tag) in open_clip.list_pretrained()
        config = open_clip.get_model_config(arch)
        # Weights trained with QuickGELU under a name without it would give wrong vectors.
        wanted = open_clip.get_pretrained_cfg(arch, tag).get("quick_gelu", False)
        assert config.get("quick_gelu", False) == wanted
        assert bool(config["text_cfg"].get("hf_tokenizer_name")) == preset.needs_transformers


def test_the_models_folder_is_where_the_setting_says(kept: Path, monkeypatch):
    assert models_folder() == kept
    monkeypatch.delenv("CLIPSEARCH_MODELS")
    assert models_folder().name == "models"
    assert "clipsearch" in str(models_folder())


@pytest.mark.parametrize("form", [Path, str, "local-dir:{}".format])
def test_a_directory_is_a_name(model: Path, form):
    assert find_model(form(model)) == model


def test_a_preset_that_is_not_here_says_where_it_would_be_and_the_way_on(kept: Path):
    with pytest.raises(ModelUnavailable) as caught:
        find_model("default")
    assert caught.value.exit_code == 4
    assert str(kept / "ViT-B-32-256--datacomp_s34b_b86k") in str(caught.value)
    assert "605 MB" in str(caught.value)
    assert "clipsearch models pull default" in (caught.value.hint or "")
    assert "clipsearch models import" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["ViT-B-32/laion2b_s34b_b79k", "hf-hub:someone/something"])
def test_a_known_name_that_is_not_here_is_unavailable_not_unknown(name: str):
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        find_model(name)
    assert not is_here(name)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("pokcet", "pocket"),
        ("Default", "default"),
        ("ViT-B-32/laion2b_s34b_b79", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B32/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("xyzzy", "clipsearch models"),
    ],
)
def test_an_unknown_name_gets_its_neighbours(name: str, close: str):
    with pytest.raises(ModelError, match="there is no model") as caught:
        find_model(name)
    assert not isinstance(caught.value, ModelUnavailable)
    assert close in (caught.value.hint or "")


def test_a_directory_without_a_model_says_what_it_lacks(tmp_path: Path):
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        find_model(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no CLIP model"):
        load_encoder(tmp_path)
    with pytest.raises(ModelError, match="no model directory"):
        find_model(tmp_path / "absent")


def test_an_imported_model_is_found_listed_exported_and_removed(
    model: Path, kept: Path, tmp_path: Path
):
    place = import_model(model, "mine")
    assert place == kept / "mine" == find_model("mine")
    entry = list_models()[-1]
    assert (entry.preset, entry.here, entry.path) == ("mine", True, str(place))
    assert entry.as_dict()["preset"] == "mine"
    exported = export_model("mine", tmp_path / "out")
    assert fingerprints(exported) == fingerprints(model)
    remove_model("mine")
    assert not is_here("mine")
    assert not list(kept.iterdir())


def test_a_model_brought_by_hand_serves_its_preset(model: Path):
    with pytest.raises(ModelUnavailable) as caught:
        find_model("default")
    name = (caught.value.hint or "").rpartition("--name ")[2].strip("`")
    place = import_model(model, name)
    assert find_model("default") == place
    with pytest.raises(ModelUnavailable):
        find_model("best")


def test_importing_twice_or_under_a_presets_name_is_refused(model: Path, kept: Path):
    import_model(model, "mine")
    with pytest.raises(ModelError, match="already"):
        import_model(model, "mine")
    for name in ["default", "../out", "", "-x", "a b"]:
        with pytest.raises(ModelError):
            import_model(model, name)
    assert [entry.name for entry in kept.iterdir()] == ["mine"]


def test_an_import_that_fails_leaves_nothing(tmp_path: Path, kept: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="open_clip_config"):
        import_model(broken, "mine")
    assert not kept.exists()
    (broken / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError):
        import_model(broken, "mine")
    assert not list(kept.iterdir())


def test_importing_a_folder_without_a_model_says_what_it_lacks(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is no model directory") as caught:
        import_model(tmp_path / "empty", "mine")
    assert "local-dir:" in (caught.value.hint or "")


def test_a_folder_that_cannot_be_written_is_a_storage_error(model: Path, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPSEARCH_MODELS", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot be written"):
        import_model(model, "mine")


def test_exporting_never_writes_over_anything(model: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    for taken in (tmp_path / "full", tmp_path / "full" / "precious"):
        with pytest.raises(ModelError, match="not an empty directory"):
            export_model(model, taken)


def test_exporting_into_the_empty_directory_one_is_in(model: Path, monkeypatch, tmp_path: Path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export_model(model, Path()) == Path()
    # Seen from inside, as by the user's shell: the directory was filled, not replaced.
    assert {file.name for file in Path().iterdir()} == {file.name for file in model.iterdir()}
    assert fingerprints(Path()) == fingerprints(model)


@pytest.mark.parametrize("name", ["pocket", "mine", "best"])
def test_only_a_pulled_or_imported_model_can_be_removed(name: str):
    with pytest.raises(ModelError):
        remove_model(name)


def test_what_a_removal_or_an_import_left_half_done_is_no_model(model: Path, kept: Path):
    for name in (".tiny.4711.removed", ".tiny.4712.draft"):
        export_model(model, kept / name)
    import_model(model, "tiny")
    assert [entry.preset for entry in list_models()][len(PRESETS) :] == ["tiny"]


def test_what_a_killed_command_left_in_the_models_folder_goes_after_a_week(model: Path, kept: Path):
    old, other, young = (kept / f".tiny.{end}" for end in ("1.removed", "2.draft", "3.draft"))
    for left in (old, other, young):
        export_model(model, left)
    for left in (old, other):
        os.utime(left, (0, 0))
    import_model(model, "tiny")
    assert sorted(kept.iterdir()) == [young, kept / "tiny"]


def test_pickled_weights_become_safetensors(model: Path, tmp_path: Path):
    import torch
    from safetensors.torch import load_file

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "open_clip_config.json").write_bytes((model / "open_clip_config.json").read_bytes())
    tensors = load_file(model / "open_clip_model.safetensors")
    torch.save(tensors, pickled / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="holds no weights"):
        load_encoder(pickled)
    place = import_model(pickled, "mine")
    assert sorted(file.suffix for file in place.iterdir()) == [".json", ".safetensors"]
    texts = ["a dog", "sunset over ocean"]
    np.testing.assert_allclose(
        load_encoder("mine").texts(texts), load_encoder(model).texts(texts), atol=1e-6
    )


def test_the_list_begins_with_pocket_and_knows_quality():
    entries = {entry.preset: entry for entry in list_models()}
    assert next(iter(entries)) == "pocket"
    assert entries["default"].quality == "64.9 / 39.9"
    assert entries["better"].quality == "- / 50.9"
    assert entries["pocket"].quality == ""
    assert not entries["default"].here


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of a model hub that a download needs: /OWNER/NAME/resolve/REVISION/FILE."""

    def __init__(self, folder: Path, *arguments):
        self.folder = folder
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file = self.folder / self.path.partition("?")[0].rpartition("/")[2]
        if "/resolve/" not in self.path or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def hub(model: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, model))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PULL = """
import sys
from clipsearch.errors import ClipsearchError
from clipsearch.models import import_open_clip, pull
open_clip = import_open_clip()
open_clip.factory._MODEL_CONFIGS["Tiny"] = {config}
open_clip.pretrained._PRETRAINED["Tiny"] = {{"quick": dict(
    hf_hub="someone/tiny/", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear",
    resize_mode="squash", quick_gelu=True)}}
try:
    print(pull(sys.argv[1]))
except ClipsearchError as error:
    print(type(error).__name__, error, error.hint, sep="|")
    sys.exit(error.exit_code)
"""


def pull_in_a_process(name: str, endpoint: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    config = {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT}
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", PULL.format(config=config), name],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_pulling_from_a_hub_makes_a_whole_model_directory(hub, model, kept, tmp_path):
    done = pull_in_a_process("hf-hub:someone/tiny", hub, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    place = kept / "hf-hub--someone--tiny"
    assert find_model("hf-hub:someone/tiny") == place
    texts = ["a dog", "sunset over ocean"]
    np.testing.assert_allclose(
        load_encoder("hf-hub:someone/tiny").texts(texts), load_encoder(model).texts(texts),
        atol=1e-6,
    )  # fmt: skip
    assert load_encoder(place).preprocess == load_encoder(model).preprocess
    assert [entry.name for entry in kept.iterdir()] == [place.name]
    assert any(entry.preset == "hf-hub:someone/tiny" for entry in list_models())


def test_pulling_a_quickgelu_tag_writes_quickgelu_down(hub, kept, tmp_path):
    done = pull_in_a_process("Tiny/quick", hub, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((kept / "Tiny--quick" / "open_clip_config.json").read_text())
    assert content["model_cfg"]["quick_gelu"] is True
    preprocess = load_encoder(kept / "Tiny--quick").preprocess
    assert (preprocess.mode, preprocess.interpolation) == ("squash", "bilinear")
    assert preprocess.mean == (0.5, 0.5, 0.5)
    assert preprocess.size == VIT["image_size"]


@pytest.mark.parametrize("name", ["small", "hf-hub:someone/tiny"])
def test_pulling_without_a_network_names_the_way_on_and_leaves_nothing(name, kept, tmp_path):
    done = pull_in_a_process(name, "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    kind, message, hint = done.stdout.strip().split("|")
    assert kind == "ModelUnavailable"
    assert str(kept) in message
    assert "could not be fetched" in message
    assert "clipsearch models import" in hint
    assert not list(kept.iterdir())


def test_a_multilingual_model_names_the_extra_where_transformers_is_missing(kept, tmp_path):
    blocker = "import sys; sys.modules['transformers'] = None\n"
    script = blocker + PULL.format(config="{}")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, "multilingual"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "clipsearch[multilingual]" in done.stdout
    assert not list(kept.iterdir())
