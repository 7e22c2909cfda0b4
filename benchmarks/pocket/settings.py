"""Every number that shapes `pocket`, in one place. The finished model carries a copy of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diet:
    """What some of the teacher's members are fed in every batch, and how much they are heard.

    Attributes:
        seeds: of the members that are brought up on it.
        share: of the whole teacher's similarities; the shares of all diets add up to 1.
        captioned, labelled, imagenet: pairs of each kind in a batch.
        likeness: weight of the loss that brings photos of one label together.
    """

    seeds: tuple[int, ...]
    share: float
    captioned: int
    labelled: int
    imagenet: int
    likeness: float = 0.0


@dataclass(frozen=True, slots=True)
class Term:
    """One stretch of training an image tower's last stages.

    Attributes:
        frozen_blocks: of the ten behind the cached activations, those that stay as they are.
        steps: of AdamW, with a warm-up and a cosine of their own.
        captioned, labelled, mixed: photos of each kind in a batch.
        likeness: weight of the loss that brings photos of one label together.
        blended: share of the steps in which labelled photos are blended in pairs, for labels that
            are known by heart.
        rate: of learning at its peak; the head's is three times that.
    """

    frozen_blocks: int
    steps: int
    captioned: int
    labelled: int
    mixed: int
    likeness: float
    blended: float = 0.0
    rate: float = 1e-4


@dataclass(frozen=True, slots=True)
class Settings:
    """What was chosen on the dev photos; trials.md has what was tried beside it."""

    seed: int = 11

    # Towers. EfficientNet-Lite2 gave 3 points more recall@10 than Lite0 with everything frozen.
    lite: int = 2
    side_px: int = 260
    # The last coordinate is 0 in every photo: a sentence that has some of it reaches less far.
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
    # One kind of heads knows everything, one no label (so names without photos are not drowned by
    # names with photos), one mostly labels (so photos of one thing lie together).
    diets: tuple[Diet, ...] = (
        Diet(seeds=(1, 2, 3, 4, 9, 10, 11), share=0.6, captioned=640, labelled=192, imagenet=128),
        Diet(seeds=(5, 6, 12, 13), share=0.3, captioned=640, labelled=0, imagenet=128),
        Diet(seeds=(7, 8), share=0.1, captioned=64, labelled=512, imagenet=256, likeness=1.0),
    )
    teacher_steps: int = 450
    teacher_image_rate: float = 1e-3
    teacher_text_rate: float = 2e-3
    teacher_decay: float = 0.1
    distil_steps: int = 250
    # Sentences are shortened by (how near the photos most like them come) to this power.
    reach_power: float = 0.6
    reach_neighbours: int = 10

    # The last stages of the image tower: first mostly captions, then mostly labels, then deeper.
    tail_terms: tuple[Term, ...] = (
        Term(7, steps=1200, captioned=64, labelled=32, mixed=48, likeness=0.3),
        Term(7, steps=900, captioned=48, labelled=64, mixed=32, likeness=2.0),
        Term(0, steps=420, captioned=40, labelled=64, mixed=24, likeness=2.0, blended=0.5),
    )
    # Then the other towers, each in one term; and all of them and the teacher together teach the
    # shipped one once more. Shares: the teacher's, the shipped tower's own, the others'.
    peer_term: Term = Term(
        0, steps=400, captioned=64, labelled=40, mixed=32, likeness=1.0, blended=0.25, rate=2e-4
    )
    peer_seeds: tuple[int, ...] = (70, 71)
    consensus: tuple[float, ...] = (0.3, 0.3, 0.15, 0.25)
    last_term: Term = Term(
        0, steps=400, captioned=40, labelled=48, mixed=56, likeness=2.0, blended=0.5, rate=1.5e-4
    )

    # The text tower.
    student_early_steps: int = 500
    student_steps: int = 1000
    student_late_steps: int = 500
    student_last_steps: int = 700
    student_rate: float = 8e-4
    student_paired_batch: int = 384
    student_world_batch: int = 512
