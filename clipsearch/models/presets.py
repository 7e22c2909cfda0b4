"""Models with a name of their own.

Retrieval is text to image recall@1 (in percent) on Flickr30k and COCO as open_clip publishes it;
None where it does not. Sizes are of fp32 weights on disk. Multilingual models and the SigLIP
family read words through the `transformers` package.
"""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    name: str
    model: str  # ARCH/TAG of open_clip; `pocket` is its own
    size_mb: int
    licence: str
    flickr30k: float | None
    coco: float | None
    about: str
    needs_transformers: bool = False


PRESETS = (
    Preset("pocket", "pocket", 40, "MIT", None, None,
           "in the box: small and quick, for everyday words in English"),
    Preset("default", "ViT-B-32-256/datacomp_s34b_b86k", 605, "MIT", 64.9, 39.9,
           "the best that is still quick on a CPU"),
    Preset("small", "PE-Core-S-16-384/meta", 350, "Apache-2.0", None, None,
           "small download, sharp pictures (384 px)"),
    Preset("better", "PE-Core-B-16/meta", 1790, "Apache-2.0", None, 50.9,
           "much better than default, some 4 times slower"),
    Preset("best", "PE-Core-L-14-336/meta", 2680, "Apache-2.0", None, 57.1,
           "for a GPU"),
    Preset("multilingual", "ViT-B-32-SigLIP2-256/webli", 1500, "Apache-2.0", None, 47.2,
           "many languages, as quick as default", True),
    Preset("multilingual-better", "ViT-B-16-SigLIP2-256/webli", 1500, "Apache-2.0", None, 53.2,
           "many languages", True),
    Preset("multilingual-best", "ViT-SO400M-16-SigLIP2-384/webli", 4550, "Apache-2.0", None, 56.0,
           "many languages, for a GPU", True),
    Preset("openai", "ViT-B-32-quickgelu/openai", 605, "MIT", 58.8, 30.4,
           "the first CLIP"),
    Preset("laion", "ViT-B-32/laion2b_s34b_b79k", 605, "MIT", 66.8, 39.3,
           "224 px: quicker than default on a CPU"),
    Preset("large", "ViT-L-14/laion2b_s32b_b82k", 1710, "MIT", 75.5, 46.5,
           "a large CLIP"),
    Preset("huge", "ViT-H-14/laion2b_s32b_b79k", 3940, "MIT", 77.6, 49.5,
           "a huge CLIP, for a GPU"),
)  # fmt: skip

BY_NAME = {preset.name: preset for preset in PRESETS}
