"""The encoder's vectors are open_clip's, whatever runs them, and it loads only what it needs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import TEXT, VIT, reference, write_model

from clipsearch.errors import ModelError, NoVector, UsageError
from clipsearch.models import LocalEncoder, load_encoder
from clipsearch.models.encoder import run_in_parts, unit_rows

PHOTOS = Path(__file__).resolve().parents[2] / "shared/photos/speed/ade20k-512px.tar"
TEXTS = [
    "sunset over ocean",
    "",
    "a dog " * 60,
    "Zwei Hunde im Schnee ☃",
    "an end <end_of_text> in the middle",
    "one",
]


def blotches(side: int, count: int = 5) -> np.ndarray:
    """(count, side, side, 3) uint8: coarse patterns, as different as photos are."""
    coarse = np.random.default_rng(3).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    repeats = -(-side // 6)
    large = coarse.repeat(repeats, axis=1).repeat(repeats, axis=2)
    return np.ascontiguousarray(large[:, :side, :side])


def open_clip_vectors(folder: Path, encoder: LocalEncoder, pixels: np.ndarray):
    import torch

    model, tokenizer = reference(folder)
    with torch.inference_mode():
        images = model.encode_image(torch.from_numpy(encoder.preprocess.normalise(pixels)))
        texts = model.encode_text(tokenizer(TEXTS))
    return unit_rows(images.float().numpy()), unit_rows(texts.float().numpy())


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    assert a.dtype == np.float32
    assert a.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    return float((a * b).sum(axis=1).min())


LITE1_MLP = {
    "timm_model_name": "tf_efficientnet_lite1",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "mlp",
    "timm_proj_bias": True,
    "image_size": 97,
}
MODELS = {
    "pocket": {},
    "another lite tower, odd side, mlp head": {"vision": LITE1_MLP, "half": False},
    "lite2 with a biased projection": {
        "vision": {
            **LITE1_MLP, "timm_model_name": "tf_efficientnet_lite2",
            "timm_proj": "linear", "image_size": 130,
        },
    },
    "a plain ViT": {"vision": VIT, "half": False},
    "QuickGELU": {"vision": VIT, "quick_gelu": True},
    "a short context": {"vision": VIT, "text": {**TEXT, "context_length": 16}},
    "custom text class, biased projection, own epsilon, tanh GELU": {
        "vision": VIT,
        "custom_text": True,
        "text": {
            **TEXT, "proj_bias": True, "norm_kwargs": {"eps": 1e-3},
            "act_kwargs": {"approximate": "tanh"}, "heads": 4, "layers": 3, "mlp_ratio": 2.0,
        },
    },
    "no causal mask": {
        "vision": VIT, "custom_text": True, "text": {**TEXT, "no_causal_mask": True},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_vectors_equal_open_clips(kind: str, tmp_path: Path):
    folder = write_model(tmp_path / "model", **MODELS[kind])
    encoder = load_encoder(folder, cache_folder=tmp_path / "cache", threads=2)
    pixels = blotches(encoder.preprocess.size)
    images, texts = open_clip_vectors(folder, encoder, pixels)
    assert "numpy" in encoder.runtime
    assert encoder.runtime.startswith("images: OpenVINO"), encoder.runtime
    assert least_cosine(encoder.texts(TEXTS), texts) > 0.999999
    assert least_cosine(encoder.images(pixels), images) > 0.99999


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "pocket")


@pytest.fixture
def encoder(pocket: Path, tmp_path: Path) -> LocalEncoder:
    return load_encoder(pocket, cache_folder=tmp_path / "cache", threads=2)


def test_a_text_has_the_same_vector_in_any_batch(encoder: LocalEncoder):
    many = [f"{text} {number}" for number in range(30) for text in TEXTS]
    together = encoder.texts(many)
    alone = np.concatenate([encoder.texts([text]) for text in many])
    np.testing.assert_allclose(together, alone, atol=2e-6)  # float32 sums in another order


def test_a_picture_has_the_same_vector_in_any_batch(encoder: LocalEncoder):
    pixels = blotches(encoder.preprocess.size, 19)
    together = encoder.images(pixels)
    alone = np.concatenate([encoder.images(pixels[i : i + 1]) for i in range(19)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("row", [[np.inf, 0], [np.nan, 1], [0, 0]])
def test_vectors_without_a_direction_are_refused(row: list[float]):
    with pytest.raises(NoVector, match="no numbers"):
        unit_rows(np.array([[1, 2], row], np.float32))


def test_nothing_gives_no_rows(encoder: LocalEncoder):
    assert encoder.texts([]).shape == (0, encoder.dim)
    assert encoder.images(blotches(encoder.preprocess.size, 0)).shape == (0, encoder.dim)


@pytest.mark.parametrize("pixels", [np.zeros((1, 5, 5, 3), np.uint8), np.zeros((1, 96, 96, 3))])
def test_pixels_of_another_size_or_type_are_refused(encoder: LocalEncoder, pixels):
    with pytest.raises(ValueError, match="uint8"):
        encoder.images(pixels)


def test_logit_scale_is_the_stored_logarithm(encoder: LocalEncoder):
    assert encoder.logit_scale == pytest.approx(np.log(1 / 0.07), abs=2e-3)  # a half


def test_a_long_text_says_what_of_it_is_read(encoder: LocalEncoder):
    short, cut = encoder.truncated(["a dog", "word " * 500])
    assert short is None
    assert cut == " ".join(["word"] * 75)


RUN = """
import sys
from pathlib import Path
import numpy as np
from clipsearch.models import load_encoder
encoder = load_encoder(sys.argv[1], cache_folder=Path(sys.argv[2]), device="cpu", threads=1)
"""


def test_a_text_query_loads_neither_torch_nor_the_image_tower(pocket: Path, tmp_path: Path):
    script = RUN + (
        "encoder.texts(['sunset over ocean']); encoder.fingerprints; encoder.logit_scale\n"
        "loaded = {'torch', 'open_clip', 'openvino', 'safetensors', 'PIL', 'ftfy', 'regex',"
        " 'huggingface_hub', 'timm'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script, pocket, tmp_path], check=True)


def test_indexing_with_pocket_loads_neither_torch_nor_open_clip(pocket: Path, tmp_path: Path):
    script = RUN + (
        "side = encoder.preprocess.size\n"
        "encoder.images(np.zeros((2, side, side, 3), np.uint8))\n"
        "loaded = {'torch', 'open_clip', 'timm', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script, pocket, tmp_path], check=True)


WATCH = """
import os, sys
home = os.path.realpath(sys.argv[3])
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        seen.append((event, str(arguments[1:])))
    elif event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        seen.append((event, str(arguments)[:300]))
    elif event in ("open", "os.mkdir") and os.path.realpath(str(arguments[0])).startswith(home):
        if event == "os.mkdir" or "w" in str(arguments[1]) or arguments[2] & os.O_CREAT:
            seen.append((event, str(arguments[0])))
sys.addaudithook(watch)
"""


@pytest.mark.parametrize("vision", ["pocket", "vit"])
def test_nothing_leaves_the_machine_and_nothing_is_left_at_home(
    vision: str, pocket: Path, tmp_path: Path
):
    """OpenVINO's telemetry reports an import and a conversion; here it must not even load."""
    folder = pocket if vision == "pocket" else write_model(tmp_path / "vit", vision=VIT)
    home = tmp_path / "home"
    home.mkdir()
    script = (
        WATCH + RUN + "side = encoder.preprocess.size\n"
        "encoder.images(np.zeros((2, side, side, 3), np.uint8)); encoder.texts(['a dog ☕'])\n"
        "assert encoder.runtime.startswith('images: OpenVINO'), encoder.runtime\n"
        "import atexit, threading; atexit._run_exitfuncs()\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
        "assert not seen, seen\n"
    )
    outside = {"CI", "GITHUB_ACTIONS"}  # where OpenVINO would hold its tongue anyway
    environment = {key: value for key, value in _environment().items() if key not in outside}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "XDG_CACHE_HOME": str(home)}
    arguments = [folder, tmp_path / "cache", home]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=environment)
    assert not list(home.iterdir())


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_a_converted_tower_is_read_from_the_cache_the_next_time(tmp_path: Path):
    folder = write_model(tmp_path / "vit", vision=VIT)
    cache = tmp_path / "cache"
    first = load_encoder(folder, precision="fp32", cache_folder=cache, threads=2)
    pixels = blotches(first.preprocess.size)
    expected = first.images(pixels)
    (graph,) = cache.glob("towers/*/tower.xml")
    assert first.fingerprints.image in str(graph)
    script = RUN + (
        "side = encoder.preprocess.size\n"
        "encoder.images(np.zeros((2, side, side, 3), np.uint8))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, folder, cache], check=True)
    graph.write_text("<net>damaged")
    again = load_encoder(folder, precision="fp32", cache_folder=cache, threads=2)
    np.testing.assert_array_equal(again.images(pixels), expected)
    assert "damaged" not in graph.read_text()


@pytest.mark.parametrize("vision", ["lite", "vit"])
def test_towers_of_a_model_put_in_its_place_are_refused_and_not_kept(vision: str, tmp_path: Path):
    settings = {} if vision == "lite" else {"vision": VIT}
    folder = write_model(tmp_path / "model", **settings)
    encoder = load_encoder(folder, precision="fp32", cache_folder=tmp_path / "cache", threads=2)
    known = encoder.fingerprints
    assert not encoder.is_outdated
    write_model(folder, **settings, seed=1)
    assert encoder.is_outdated
    with pytest.raises(ModelError, match="replaced"):
        encoder.images(blotches(encoder.preprocess.size))
    with pytest.raises(ModelError, match="replaced"):
        encoder.texts(TEXTS)
    assert not list((tmp_path / "cache").glob("towers/*"))
    again = load_encoder(folder, precision="fp32", cache_folder=tmp_path / "cache", threads=2)
    assert again.fingerprints.image != known.image
    assert again.images(blotches(encoder.preprocess.size)).shape == (5, again.dim)


def test_fingerprints_of_a_model_put_in_its_place_are_refused(tmp_path: Path):
    folder = write_model(tmp_path / "model")
    encoder = load_encoder(folder, precision="fp32", cache_folder=tmp_path / "cache", threads=2)
    encoder.images(blotches(encoder.preprocess.size))
    write_model(folder, seed=1)
    with pytest.raises(ModelError, match="replaced"):
        _ = encoder.fingerprints


def test_torch_takes_over_where_openvino_is_not_installed(tmp_path: Path, monkeypatch):
    folder = write_model(tmp_path / "lite")
    monkeypatch.setitem(sys.modules, "openvino", None)
    encoder = load_encoder(folder, cache_folder=tmp_path / "cache")
    pixels = blotches(encoder.preprocess.size)
    images, _ = open_clip_vectors(folder, encoder, pixels)
    assert least_cosine(encoder.images(pixels), images) > 0.99999
    assert "torch" in encoder.runtime
    assert "not installed" in encoder.runtime


def test_torch_takes_over_where_openvino_cannot_convert(tmp_path: Path, monkeypatch):
    import openvino

    def refuse(*arguments, **settings):
        raise RuntimeError("no such operator: aten::odd\nmore")

    folder = write_model(tmp_path / "vit", vision=VIT)
    monkeypatch.setattr(openvino, "convert_model", refuse)
    encoder = load_encoder(folder, cache_folder=tmp_path / "cache")
    pixels = blotches(encoder.preprocess.size)
    images, _ = open_clip_vectors(folder, encoder, pixels)
    assert least_cosine(encoder.images(pixels), images) > 0.99999
    assert "aten::odd" in encoder.runtime


def test_torch_text_towers_equal_open_clips(tmp_path: Path):
    # Layer scale is one of the settings that the numpy tower leaves to torch.
    text = {**TEXT, "ls_init_value": 0.5}
    folder = write_model(tmp_path / "scaled", vision=VIT, text=text, half=False)
    encoder = load_encoder(folder, cache_folder=tmp_path / "cache")
    assert "texts: torch" in encoder.runtime
    _, texts = open_clip_vectors(folder, encoder, blotches(64))
    assert least_cosine(encoder.texts(TEXTS), texts) > 0.999999


@pytest.mark.parametrize("vision", ["lite", "vit"])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_reduced_precision_stays_close_on_real_photos(vision: str, precision: str, tmp_path: Path):
    if not PHOTOS.is_file():
        pytest.skip("the photos of shared/photos are not beside this checkout")
    settings = {} if vision == "lite" else {"vision": VIT}
    folder = write_model(tmp_path / "model", **settings)
    exact = load_encoder(folder, precision="fp32", cache_folder=tmp_path / "cache", threads=2)
    fast = load_encoder(folder, precision=precision, cache_folder=tmp_path / "cache", threads=2)
    pixels = np.stack([exact.preprocess.pixels(photo) for photo in real_photos(64)])
    cosines = (exact.images(pixels) * fast.images(pixels)).sum(axis=1)
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.99


def real_photos(count: int) -> list[Image.Image]:
    photos = []
    with tarfile.open(PHOTOS) as archive:
        for member in archive:
            if member.name.endswith(".jpg") and len(photos) < count:
                content = archive.extractfile(member)
                assert content is not None
                photos.append(Image.open(io.BytesIO(content.read())).convert("RGB"))
    return photos


class SmallMemory:
    """A tower that takes `room` items at most, and says so as the real ones do."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return batch.astype(np.float32) * 2


def cuda_error() -> Exception:
    import torch

    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("MPS backend out of memory"), cuda_error]
)
def test_a_batch_too_large_for_memory_is_halved_and_goes_on(error):
    tower = SmallMemory(3, error() if callable(error) else error)
    batch = np.arange(20)[:, None]
    rows, limit = run_in_parts(tower, batch, 16)
    np.testing.assert_array_equal(rows, batch * 2)
    assert limit == 2
    assert tower.sizes[:4] == [16, 8, 4, 2]  # and never a large one again


def test_a_single_picture_too_large_for_memory_says_so():
    with pytest.raises(ModelError, match="memory"):
        run_in_parts(SmallMemory(0, MemoryError()), np.zeros((5, 1)), 4)


def test_another_failure_is_no_matter_of_memory():
    with pytest.raises(RuntimeError, match="shape"):
        run_in_parts(SmallMemory(0, RuntimeError("bad shape")), np.zeros((5, 1)), 4)


@pytest.mark.parametrize("setting", [{"device": "tpu"}, {"precision": "int3"}])
def test_an_unknown_device_or_precision_is_refused(pocket: Path, setting):
    with pytest.raises(UsageError, match="unknown"):
        load_encoder(pocket, **setting)


def test_a_device_that_is_not_here_is_refused(encoder: LocalEncoder, pocket: Path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ModelError, match="cuda"):
        _ = load_encoder(pocket, device="cuda").device
    assert encoder.device == "cpu"


def test_weights_that_do_not_fit_their_configuration_are_refused(pocket: Path, tmp_path: Path):
    folder = write_model(tmp_path / "vit", vision=VIT)
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"]["layers"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="does not fit"):
        load_encoder(folder, cache_folder=tmp_path / "cache").images(np.zeros((1, 64, 64, 3), "u1"))
    content["model_cfg"]["text_cfg"]["layers"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="missing"):
        load_encoder(folder, cache_folder=tmp_path / "cache").texts(["a dog"])


@pytest.mark.parametrize("tower", ["open_clip's", "transformers'"])
def test_words_of_a_transformers_tokenizer_equal_open_clips(tower: str, tmp_path: Path):
    pytest.importorskip("transformers", reason="needs clipsearch[multilingual]")
    folder = tmp_path / "multilingual"
    text = SIGLIP_TEXT
    if tower == "transformers'":
        from transformers import XLMRobertaConfig

        XLMRobertaConfig(
            vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=40, pad_token_id=0,
        ).save_pretrained(folder)  # fmt: skip
        text = {
            "context_length": 16, "hf_model_name": str(folder), "hf_model_pretrained": False,
            "hf_tokenizer_name": "someone/absent",
        }  # fmt: skip
    write_model(folder, vision=VIT, text=text, custom_text=True)
    write_tokenizer(folder)
    encoder = load_encoder(folder, cache_folder=tmp_path / "cache")
    assert "texts: torch" in encoder.runtime
    texts = ["a dog on the beach", "beach", "Snow!", "the dog " * 40]
    model, tokenizer = reference(folder)
    import torch

    with torch.inference_mode():
        expected = unit_rows(model.encode_text(tokenizer(texts)).numpy())
    assert least_cosine(encoder.texts(texts), expected) > 0.999999
    assert encoder.truncated(texts) == [None] * 4


def test_a_transformers_model_names_the_extra_where_it_is_missing(tmp_path: Path, monkeypatch):
    folder = write_model(tmp_path / "siglip", vision=VIT, text=SIGLIP_TEXT, custom_text=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="transformers") as caught:
        load_encoder(folder, cache_folder=tmp_path / "cache").texts(["a dog"])
    assert "clipsearch[multilingual]" in (caught.value.hint or "")


SIGLIP_TEXT = {
    **TEXT, "context_length": 16, "vocab_size": 32, "hf_tokenizer_name": "someone/absent",
    "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True, "proj_bias": True,
    "pool_type": "last",
}  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words, in the files that transformers reads."""
    from tokenizers import Tokenizer as WordTokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", *["a", "the", "dog", "cat", "on", "beach", "snow"]]
    tokenizer = WordTokenizer(WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
