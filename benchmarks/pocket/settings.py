"""Every number that shapes `pocket`, in one place. The finished model carries a copy of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What was chosen on the dev photos; trials.md has what was tried beside it."""

    seed: int = 11

    # Towers. EfficientNet-Lite2 gave 3 points more recall@10 than Lite0 with everything frozen.
    lite: int = 2
    side_px: int = 260
    dim: int = 256
    text_width: int = 224
    text_heads: int = 4
    text_layers: int = 4
    context_length: int = 77

    # Views of every training photo: whole, mirrored, then random crops.
    views: int = 5

    # Frozen towers: an ensemble of small heads, the teacher of everything after it. It looks
    # through the other towers too (lite, side): three see 4 points more recall@10 than one.
    teacher_sees: tuple[tuple[int, int], ...] = ((0, 224), (1, 240))
    teacher_hidden: int = 768
    teachers: int = 8
    teacher_steps: int = 450
    teacher_image_rate: float = 1e-3
    teacher_text_rate: float = 2e-3
    teacher_decay: float = 0.1
    distil_steps: int = 250
    captioned_batch: int = 640
    labelled_batch: int = 192
    imagenet_batch: int = 128

    # The last stages of the image tower.
    tail_steps: int = 1400
    tail_batch: int = 96
    tail_rate: float = 1e-4

    # The text tower.
    student_early_steps: int = 600
    student_steps: int = 1100
    student_rate: float = 8e-4
    student_paired_batch: int = 384
    student_world_batch: int = 512
