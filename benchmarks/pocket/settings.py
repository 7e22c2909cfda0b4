"""Every number that shapes `pocket`, in one place. The finished model carries a copy of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


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
    # Sentences without a picture: this many of all, or all.
    most_world: int | None = None

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
    reach_power: float = 0.8
    reach_neighbours: int = 10

    # The last stages of the image tower: first mostly captions, then mostly labels, then deeper.
    tail_terms: tuple[Term, ...] = (
        Term(7, steps=1200, captioned=64, labelled=32, mixed=48, likeness=0.3),
        Term(7, steps=900, captioned=48, labelled=64, mixed=32, likeness=2.0),
        Term(0, steps=420, captioned=40, labelled=64, mixed=24, likeness=2.0, blended=0.5),
    )
    # Then the other towers, each in one term; and all of them and the teacher together teach the
    # shipped one once more. Shares: the teacher's, the shipped tower's own, the others'; without
    # shares there is neither.
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


@dataclass(frozen=True, slots=True)
class WholePlan:
    """What a GPU trains for how long (whole.py); chosen on the dev photos.

    Attributes:
        sentence_head_steps: of the sentence encoder's head alone, to begin with.
        committee_steps, image_steps: of AdamW, each with a warm-up and a cosine; fewer where the
            seconds beside them are over before.
        captioned, labelled: photos in a batch of the committee; `others` captions contend too.
        anchor: weight of staying near what the released towers say.
        shares: of Lite2, Lite1, Lite0 and the released tower in what the image tower is told.
        told, named, mixed: photos with captions, with labels and of two photos in one, in a batch
            of the image tower.
    """

    seed: int = 21
    sentence_head_steps: int = 1200
    committee_steps: int = 125
    committee_seconds: float = math.inf
    captioned: int = 448
    labelled: int = 192
    others: int = 512
    anchor: float = 3.0
    likeness: float = 1.0
    trunk_rate: float = 2e-4
    head_rate: float = 1e-3
    encoder_rate: float = 4e-5
    shares: tuple[float, ...] = (0.35, 0.25, 0.15, 0.25)
    image_steps: int = 245
    image_seconds: float = math.inf
    told: int = 256
    named: int = 128
    mixed: int = 384
    image_rate: float = 4e-4
    most_world: int = 10**6


LITTLE_WHOLE = WholePlan(
    sentence_head_steps=3, committee_steps=3, captioned=6, labelled=4, others=5, image_steps=3,
    told=4, named=4, mixed=4, most_world=64,
)  # fmt: skip


def _first(settings: Settings) -> tuple[Diet, ...]:
    return tuple(replace(diet, seeds=diet.seeds[:1]) for diet in settings.diets)


def _little(term: Term) -> Term:
    return replace(term, steps=2, captioned=6, labelled=6, mixed=4)


# A few steps of every stage, to see that all of them run and go on where they were stopped
# (rehearse.py).
REHEARSAL = replace(
    Settings(),
    views=3,
    most_world=300,
    diets=tuple(replace(d, captioned=20, labelled=12, imagenet=10) for d in _first(Settings())),
    teacher_steps=3,
    distil_steps=3,
    tail_terms=tuple(_little(term) for term in Settings().tail_terms),
    peer_term=_little(Settings().peer_term),
    last_term=_little(Settings().last_term),
    student_early_steps=2,
    student_steps=2,
    student_late_steps=2,
    student_last_steps=2,
    student_paired_batch=24,
    student_world_batch=24,
)

# One member that knows labels and one that does not, one term of the tail, few steps of everything:
# what can be trained five times, though not for long (unseen.py).
IN_SHORT = replace(
    Settings(),
    views=1,
    most_world=20_000,
    diets=(
        replace(Settings().diets[0], seeds=(1,), share=2 / 3),
        replace(Settings().diets[1], seeds=(5,), share=1 / 3),
    ),
    teacher_steps=250,
    distil_steps=120,
    tail_terms=(Term(7, steps=70, captioned=28, labelled=24, mixed=12, likeness=1.0),),
    consensus=(),
)
