"""Preprocessing equals open_clip's own transform, for every way that its models use."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from clipsearch.errors import ModelError
from clipsearch.models import Preprocess, import_open_clip
from clipsearch.models.presets import PRESETS

# Odd sizes: exact, off by one, upscaled, portrait, landscape, strips.
SIZES = [
    (224, 224), (225, 223), (97, 61), (61, 97), (640, 427), (427, 640), (301, 300), (1, 1),
    (3, 5), (1023, 33), (33, 1023), (500, 375),
]  # fmt: skip


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_007 + height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 4, height // 4, width, height), fill=(200, 40, 90))
    return image


def reference_transform(preprocess: Preprocess):
    import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(
        PreprocessCfg(
            size=preprocess.size,
            mean=preprocess.mean,
            std=preprocess.std,
            interpolation=preprocess.interpolation,
            resize_mode=preprocess.mode,
            fill_color=preprocess.fill_color,
        ),
        is_train=False,
    )


def assert_equal_to_open_clip(preprocess: Preprocess, image: Image.Image) -> None:
    *to_pixels, to_tensor, normalise = reference_transform(preprocess).transforms
    expected = image
    for step in to_pixels:
        expected = step(expected)
    pixels = preprocess.pixels(image)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    normalised = preprocess.normalise(pixels[None])
    assert normalised.flags.c_contiguous
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(
        normalised[0], normalise(to_tensor(expected)).numpy(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [224, 63])
def test_pixels_equal_open_clips_on_odd_sizes(mode, interpolation, side):
    preprocess = Preprocess(side, mode, interpolation, fill_color=37)
    for width, height in SIZES:
        if mode == "longest" and min(width, height) * side < max(width, height) / 2:
            continue
        assert_equal_to_open_clip(preprocess, picture(width, height))


def test_every_preset_is_preprocessed_as_open_clip_does():
    open_clip = import_open_clip()
    for preset in PRESETS:
        if preset.name == "pocket":
            continue
        arch, tag = preset.model.split("/")
        details = open_clip.get_pretrained_cfg(arch, tag)
        assert details, f"open_clip knows no {preset.model}"
        vision = open_clip.get_model_config(arch)["vision_cfg"]
        preprocess = Preprocess.from_config(details, size=vision["image_size"])
        assert preprocess.mean == tuple(details["mean"])
        for width, height in [(640, 427), (333, 500)]:
            assert_equal_to_open_clip(preprocess, picture(width, height))


def test_all_of_open_clips_pretrained_configs_can_be_read():
    open_clip = import_open_clip()
    seen = set()
    for arch, tag in open_clip.list_pretrained():
        size = open_clip.get_model_config(arch)["vision_cfg"].get("image_size", 224)
        preprocess = Preprocess.from_config(open_clip.get_pretrained_cfg(arch, tag), size=size)
        seen.add((preprocess.mode, preprocess.interpolation))
    assert seen >= set(itertools.product(["shortest", "squash"], ["bicubic", "bilinear"]))


def test_a_configuration_that_says_nothing_has_open_clips_defaults():
    import_open_clip()
    from open_clip.transform import PreprocessCfg

    default, ours = PreprocessCfg(), Preprocess.from_config({})
    assert (ours.size, ours.mean, ours.std) == (default.size, default.mean, default.std)
    assert (ours.mode, ours.interpolation) == (default.resize_mode, default.interpolation)


@pytest.mark.parametrize("size", [(40, 9_000), (9_000, 40)])
def test_a_long_strip_costs_no_more_than_its_crop_and_looks_the_same(size):
    preprocess = Preprocess(64)
    image = picture(*size)
    pixels = preprocess.pixels(image)
    *to_pixels, _, _ = reference_transform(preprocess).transforms
    expected = image
    for step in to_pixels:
        expected = step(expected)
    # Pillow keeps the box in float32 and may take the two passes in the other order, which clips
    # the overshoot of this noise elsewhere (measured: 0.11 grey levels on average).
    assert np.abs(pixels.astype(int) - np.asarray(expected).astype(int)).mean() < 0.3


def test_a_strip_of_a_million_pixels_needs_no_million_columns():
    pixels = Preprocess(224).pixels(Image.new("RGB", (1_000_000, 1), (10, 200, 30)))
    assert (pixels == (10, 200, 30)).all()
    assert Preprocess(224, "longest").pixels(Image.new("RGB", (1_000_000, 1))).shape[0] == 224


def test_a_grey_picture_becomes_rgb():
    assert Preprocess(32).pixels(Image.new("L", (40, 30), 99)).shape == (32, 32, 3)


def test_a_decoder_may_leave_what_the_model_sees_or_what_its_configuration_says():
    assert Preprocess.from_config({}, size=256).source_px == 256
    assert Preprocess.from_config({"source_px": 240}, size=256).source_px == 240


@pytest.mark.parametrize(
    "config",
    [
        {"resize_mode": "tile"}, {"interpolation": "nearest"}, {"mean": [0.5, 0.5]},
        {"source_px": 0}, {"source_px": "half"},
    ],
)  # fmt: skip
def test_an_unknown_way_is_refused(config):
    with pytest.raises(ModelError):
        Preprocess.from_config(config)


def test_a_tower_of_oblong_pictures_is_refused():
    with pytest.raises(ModelError, match="squares"):
        Preprocess.from_config({}, size=[224, 336])
