"""What each way of training changes, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import tiny_config, tiny_model

from clipsearch.errors import ModelError, UsageError
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.train.loop import learning_rate
from clipsearch.train.methods import choose_method, clamp_scale, layer_depths, prepare
from clipsearch.train.run import mixture
from clipsearch.train.settings import Settings
from clipsearch.train.towers import Towers, load_towers, new_towers, save_model

TIMM = {
    "embed_dim": 32,
    "vision_cfg": {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg",
                   "timm_proj": "linear", "image_size": 64},
    "text_cfg": {"vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}  # fmt: skip


@pytest.fixture
def towers(tmp_path: Path) -> Towers:
    return load_towers(tiny_model(tmp_path), device="cpu")


def trained_names(towers: Towers, **options: object) -> set[str]:
    prepare(towers, Settings(**options), 100, scratch=False)
    return {name for name, p in towers.model.named_parameters() if p.requires_grad}


def test_one_tower_methods_lock_the_other(towers: Towers) -> None:
    words = trained_names(towers, method="text")
    assert not any(name.startswith("visual.") for name in words)
    assert {"token_embedding.weight", "text_projection", "logit_scale"} <= words
    pictures = trained_names(towers, method="image")
    assert {name for name in pictures if not name.startswith("visual.")} == {"logit_scale"}
    assert trained_names(towers, method="full") == words | pictures


def test_tokens_are_all_that_changes(towers: Towers) -> None:
    assert trained_names(towers, method="tokens") == {"token_embedding.weight", "logit_scale"}


def test_projection_locks_the_trunks(towers: Towers) -> None:
    names = trained_names(towers, method="projection")
    assert names == {"visual.proj", "text_projection", "logit_scale"}
    towers.model = import_open_clip().CustomTextCLIP(**TIMM)
    names = trained_names(towers, method="projection")
    assert names == {"visual.head.proj.weight", "text.text_projection", "logit_scale"}


@pytest.mark.parametrize("tower", ["transformer", "timm"])
def test_features_of_the_trunks_stand_for_photos_and_texts(towers: Towers, tower: str) -> None:
    if tower == "timm":
        towers.model = import_open_clip().CustomTextCLIP(**TIMM)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    pixels = pixels[:, :32, :32] if tower == "transformer" else pixels
    whole = towers.embed_pixels(pixels)
    tokens = np.zeros((3, 16 if tower == "transformer" else 77), dtype=np.int64)
    tokens[:, :5] = [1, 5, 7, 63, 0], [1, 9, 63, 0, 0], [1, 5, 5, 5, 63]
    said = towers.embed_tokens(tokens)
    features, words = towers.photo_features(pixels, batch=2), towers.text_features(tokens, batch=2)
    assert features.shape[1] == (64 if tower == "transformer" else 1280)
    assert words.shape[1] == 32
    assert np.abs(towers.project_photos(features) - whole).max() < 1e-6
    assert np.abs(towers.project_texts(words) - said).max() < 1e-6
    # And whole inputs still go all the way.
    assert np.abs(towers.embed_pixels(pixels) - whole).max() < 1e-6
    assert np.abs(towers.embed_tokens(tokens) - said).max() < 1e-6


def test_features_are_left_out_at_random_in_training_alone(towers: Towers) -> None:
    features = torch.from_numpy(towers.photo_features(np.zeros((2, 32, 32, 3), np.uint8)))
    encode = towers.model.encode_image
    towers.training_mode()
    assert not torch.equal(encode(features), encode(features))
    towers.model.eval()
    assert torch.equal(encode(features), encode(features))


def test_a_tower_without_a_projection_is_refused(towers: Towers) -> None:
    vision = TIMM["vision_cfg"] | {"timm_proj": None}
    towers.model = import_open_clip().CustomTextCLIP(**TIMM | {"vision_cfg": vision})
    with pytest.raises(ModelError, match="image tower ends without a projection"):
        towers.photo_features(np.zeros((2, 64, 64, 3), np.uint8))


def test_unlocking_the_last_blocks(towers: Towers) -> None:
    names = trained_names(towers, method="full", unlock_last=1)
    assert "visual.transformer.resblocks.1.mlp.c_fc.weight" in names
    assert "transformer.resblocks.1.mlp.c_fc.weight" in names
    assert {"visual.proj", "visual.ln_post.weight", "ln_final.weight"} <= names
    assert not any("resblocks.0" in name for name in names)
    assert not {"visual.conv1.weight", "token_embedding.weight", "positional_embedding"} & names


def test_layer_wise_decay_and_no_decay_groups(towers: Towers) -> None:
    plan = prepare(towers, Settings(method="full", layer_decay=0.5), 100, scratch=False)
    names = {id(p): name for name, p in towers.model.named_parameters()}
    factors, decays = {}, {}
    for group in plan.groups:
        for parameter in group["params"]:
            factors[names[id(parameter)]] = group["factor"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert factors["visual.proj"] == factors["text_projection"] == factors["logit_scale"] == 1
    assert factors["transformer.resblocks.1.attn.in_proj_weight"] == 0.5
    assert factors["transformer.resblocks.0.attn.in_proj_weight"] == 0.25
    assert factors["token_embedding.weight"] == factors["visual.conv1.weight"] == 0.125
    free = {name for name, decay in decays.items() if decay == 0}
    assert {
        "logit_scale",
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.bias",
    } <= free
    assert {"visual.class_embedding", "visual.positional_embedding"} <= free
    assert decays["text_projection"] == decays["visual.conv1.weight"] == 0.1


def test_depths_of_a_timm_tower() -> None:
    depths = layer_depths(import_open_clip().CustomTextCLIP(**TIMM))
    assert depths["visual.head.proj.weight"] == ("image", 0)
    assert depths["visual.trunk.conv_head.weight"] == ("image", 0)
    assert depths["visual.trunk.blocks.6.0.conv_pw.weight"] == ("image", 1)
    assert depths["visual.trunk.conv_stem.weight"] == ("image", 8)
    assert depths["text.transformer.resblocks.0.ln_1.weight"] == ("text", 1)


def test_lora_starts_at_the_base_reaches_fused_attention_and_merges(
    towers: Towers, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    tokens, _ = towers.tokenise(["a dog", "two cats", "the sea"])
    base, before = towers.state(), towers.embed_pixels(pixels)
    plan = prepare(towers, Settings(method="lora", lora_rank=4), 100, scratch=False)
    np.testing.assert_allclose(towers.embed_pixels(pixels), before, atol=1e-6)

    names = {name for name, p in towers.model.named_parameters() if p.requires_grad}
    for tower in ("visual.transformer", "transformer"):
        for part in (
            "attn.parametrizations.in_proj_weight",
            "attn.out_proj.parametrizations.weight",
            "mlp.c_fc.parametrizations.weight",
            "mlp.c_proj.parametrizations.weight",
        ):
            assert f"{tower}.resblocks.0.{part}.0.b" in names
    assert all(name.endswith((".a", ".b")) or name == "logit_scale" for name in names)

    # Gradients reach every addition, the fused in_proj's too.
    images, texts, _ = towers.model(towers.image_inputs(pixels), torch.from_numpy(tokens))
    (images.sum() + texts.sum()).backward()
    for name, parameter in towers.model.named_parameters():
        if name.endswith(".b"):
            assert float(parameter.grad.abs().max()) > 0, name

    with torch.no_grad():
        for parameter in plan.parameters:
            if parameter.ndim == 3:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    after_pixels, after_tokens = towers.embed_pixels(pixels), towers.embed_tokens(tokens)
    assert np.abs(after_pixels - before).max() > 1e-3
    merged = towers.state()
    assert merged.keys() == base.keys()
    change = (
        merged["transformer.resblocks.0.attn.in_proj_weight"]
        - base["transformer.resblocks.0.attn.in_proj_weight"]
    )
    assert [torch.linalg.matrix_rank(part).item() for part in change.chunk(3)] == [4, 4, 4]

    save_model(towers, merged, tmp_path / "merged")
    again = load_towers(tmp_path / "merged", device="cpu")
    np.testing.assert_allclose(again.embed_pixels(pixels), after_pixels, atol=1e-6)
    np.testing.assert_allclose(again.embed_tokens(tokens), after_tokens, atol=1e-6)


def test_a_half_precision_base_stays_half_precision(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    towers = load_towers(folder, device="cpu")
    towers.stored = dict.fromkeys(towers.stored, torch.float16)
    save_model(towers, towers.state(), tmp_path / "half")
    half = load_towers(tmp_path / "half", device="cpu")
    assert set(half.stored.values()) == {torch.float16}
    assert half.model.visual.proj.dtype == torch.float32
    save_model(half, half.state(), tmp_path / "again")
    files = [tmp_path / name / "open_clip_model.safetensors" for name in ("half", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_auto_chooses_by_device_and_number_of_photos_and_says_why() -> None:
    settings = Settings()
    assert choose_method(settings, 5000, "cpu", scratch=False)[0] == "text"
    assert choose_method(settings, 300, "cuda", scratch=False)[0] == "lora"
    method, reason = choose_method(settings, 5000, "cuda", scratch=False)
    assert method == "full"
    assert "5,000 photos" in reason
    with pytest.raises(UsageError, match="from scratch"):
        choose_method(Settings(method="text"), 300, "cpu", scratch=True)


def test_temperature_is_fixed_or_learned_and_capped(towers: Towers) -> None:
    names = trained_names(towers, method="full", temperature=0.07)
    assert "logit_scale" not in names
    assert towers.model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    towers.model.logit_scale.data.fill_(9.0)
    clamp_scale(towers.model)
    assert towers.model.logit_scale.exp().item() == pytest.approx(100)


def test_a_temperature_that_training_would_not_keep_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--temperature must be from 0\.01 to 1, not 5"):
        Settings(temperature=5)


def test_a_learning_rate_of_nothing_is_not_the_methods_own(towers: Towers) -> None:
    plan = prepare(towers, Settings(method="text", learning_rate=0), 100, scratch=False)
    assert plan.learning_rate == 0


def test_siglip_is_chosen_for_a_model_with_a_bias(tmp_path: Path) -> None:
    siglip = new_towers(str(tiny_config(tmp_path, init_logit_bias=-10.0)), device="cpu")
    assert prepare(siglip, Settings(method="full"), 100, scratch=False).siglip
    assert siglip.model.logit_bias.requires_grad
    plan = prepare(siglip, Settings(method="full", loss="infonce"), 100, scratch=False)
    assert not plan.siglip
    assert not siglip.model.logit_bias.requires_grad


def test_batch_norm_keeps_its_statistics(towers: Towers) -> None:
    towers.model.visual.norm = torch.nn.BatchNorm2d(3)
    towers.training_mode()
    assert towers.model.training
    assert not towers.model.visual.norm.training


def test_the_mixture_is_linear_in_alpha(towers: Towers) -> None:
    base = towers.state()
    tuned = {
        name: value + 1 if value.is_floating_point() else value for name, value in base.items()
    }
    for alpha in (0.0, 0.25, 1.0):
        for name, value in mixture(base, tuned, alpha).items():
            torch.testing.assert_close(value, base[name] + alpha)
    assert torch.equal(mixture(base, tuned, 0.0)["text_projection"], base["text_projection"])


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 0.1, 1.0) for step in range(100)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert learning_rate(55, 100, 0.1, 1.0) == pytest.approx(0.5)


def test_gradient_checkpointing_changes_no_gradient(towers: Towers) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def gradient() -> torch.Tensor:
        towers.model.zero_grad()
        towers.model(towers.image_inputs(pixels))[0].sum().backward()
        return copy.deepcopy(towers.model.visual.conv1.weight.grad)

    plain = gradient()
    prepare(towers, Settings(method="full", checkpointing=True), 100, scratch=False)
    towers.training_mode()
    torch.testing.assert_close(gradient(), plain)
