"""The families of scenes, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from renderer import more, night, things, trees, wild
from renderer.core import Array, Stage

Scene = Callable[[Stage], Array]

SCENES: dict[str, Scene] = {
    "ocean": wild.ocean,
    "mountains": wild.mountains,
    "dunes": wild.dunes,
    "hills": wild.hills,
    "grain": wild.grain,
    "tulips": wild.tulips,
    "lake": wild.lake,
    "volcano": wild.volcano,
    "waterfall": wild.waterfall,
    "underwater": wild.underwater,
    "forest": trees.forest,
    "lone_tree": trees.lone_tree,
    "beach": trees.beach,
    "snowfield": trees.snowfield,
    "starry": night.starry,
    "moonlit_sea": night.moonlit_sea,
    "aurora": night.aurora,
    "lightning": night.lightning,
    "fireworks": night.fireworks,
    "campfire": night.campfire,
    "animal": things.animal,
    "birds": things.birds,
    "boats": things.boats,
    "balloons": things.balloons,
    "lighthouse": things.lighthouse,
    "skyline": things.skyline,
    "road": things.road,
    "rainbow": things.rainbow,
    "plane": things.plane,
    "windmill": things.windmill,
    "fruit": things.fruit,
    "bouquet": more.bouquet,
    "bananas": more.bananas,
    "bridge": more.bridge,
    "kite": more.kite,
    "rainy_street": more.rainy_street,
}

OFTEN = {
    "ocean": 1.6,
    "forest": 1.6,
    "beach": 1.3,
    "animal": 2.0,
    "fruit": 2.0,
    "skyline": 1.4,
}  # families with many kinds in them


def weights(families: Sequence[str]) -> np.ndarray:
    """How often each family is drawn, summing to 1."""
    plain = np.array([OFTEN.get(family, 1.0) for family in families])
    return np.asarray(plain / plain.sum())
