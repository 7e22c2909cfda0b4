# ruff: noqa: E501
"""The sample album: which scenes, where and when 'taken', and what people would say of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from renderer.core import Stage, develop
from renderer.scenes import SCENES

CAMERAS = (("Halvorsen", "Halvorsen M2", "Halvorsen 35mm F2"), ("Orvane", "Orvane X-40", "Orvane 18-55mm F2.8-4"),
           ("Tessaro", "Tessaro Pocket 5", "Tessaro 24mm F1.8"), ("Kelvia", "Kelvia Phone 9", "Kelvia wide 26mm F1.6"))  # fmt: skip
PLACES = {
    "algarve": (37.02, -8.97), "lofoten": (68.23, 14.56), "alps": (46.56, 7.98), "sahara": (31.10, -4.01), "tuscany": (43.07, 11.61),
    "holland": (52.27, 4.55), "provence": (43.93, 6.05), "iceland": (64.05, -21.40), "bali": (-8.51, 115.26), "hawaii": (19.41, -155.28),
    "newyork": (40.70, -73.99), "chicago": (41.88, -87.61), "arizona": (36.98, -110.10), "kenya": (-1.40, 35.10), "cappadocia": (38.64, 34.83),
    "brittany": (48.33, -4.77), "blackforest": (48.56, 8.22), "lapland": (67.80, 26.70), "maldives": (4.18, 73.51), "atacama": (-23.86, -69.14),
    "ireland": (52.14, -10.27), "vermont": (44.47, -72.69), "kyoto": (35.01, 135.77), "home": (47.99, 7.85), "sydney": (-33.85, 151.22),
}  # fmt: skip
SIZES = {
    "L": (1200, 800),
    "W": (1280, 720),
    "S": (1024, 683),
    "F": (1024, 768),
    "P": (768, 1024),
    "T": (683, 1024),
    "Q": (800, 800),
    "B": (1600, 1066),
}


class Shot(NamedTuple):
    """One photo of the album."""

    name: str
    family: str
    wishes: dict[str, Any]
    size: str  # key of SIZES
    place: str
    captions: tuple[str, ...]


SHOTS = (
    Shot(
        "sunset-ocean",
        "ocean",
        {"time": "sunset", "clouds": 0.5},
        "B",
        "algarve",
        (
            "The sun going down over the ocean.",
            "sunset over the sea with an orange path on the water",
        ),
    ),
    Shot(
        "blue-sea",
        "ocean",
        {"time": "day", "clouds": 0.4},
        "L",
        "maldives",
        ("deep blue sea under white clouds", "Open water on a sunny day."),
    ),
    Shot(
        "stormy-sea",
        "ocean",
        {"time": "storm", "rough": 1.0},
        "W",
        "brittany",
        ("a rough grey sea before a storm", "Dark clouds over stormy water."),
    ),
    Shot(
        "moonlit-sea",
        "moonlit_sea",
        {"clouds": 0.1},
        "L",
        "algarve",
        ("the full moon over the sea at night", "Moonlight glittering on dark water."),
    ),
    Shot(
        "snowy-peaks",
        "mountains",
        {"time": "day", "snow": 1.0, "clouds": 0.3},
        "L",
        "alps",
        ("snow-capped mountains under a blue sky", "Snowy peaks in the Alps."),
    ),
    Shot(
        "rocky-mountains",
        "mountains",
        {"time": "day", "snow": 0.0, "clouds": 0.5},
        "L",
        "arizona",
        ("bare rocky mountains behind a green plain", "A mountain range without snow."),
    ),
    Shot(
        "misty-mountains",
        "mountains",
        {"time": "overcast", "snow": 0.1},
        "W",
        "iceland",
        ("grey misty mountains on a gloomy day", "Mountains disappearing in low clouds."),
    ),
    Shot(
        "dunes-noon",
        "dunes",
        {"time": "day", "clouds": 0.1},
        "L",
        "sahara",
        ("sand dunes in the desert under a blue sky", "Hot desert sand at noon."),
    ),
    Shot(
        "dunes-evening",
        "dunes",
        {"time": "sunset"},
        "F",
        "atacama",
        ("the desert at sunset", "Dunes glowing red in the last light."),
    ),
    Shot(
        "green-hills",
        "hills",
        {"time": "day", "clouds": 0.5},
        "L",
        "tuscany",
        ("rolling green hills on a summer day", "Green countryside with a blue sky."),
    ),
    Shot(
        "wheat",
        "grain",
        {"time": "day", "crop": "wheat"},
        "L",
        "vermont",
        ("a golden wheat field", "Ripe grain reaching to the horizon."),
    ),
    Shot(
        "rapeseed",
        "grain",
        {"time": "day", "crop": "rape"},
        "F",
        "home",
        ("a bright yellow rapeseed field in bloom", "Yellow canola flowers under a blue sky."),
    ),
    Shot(
        "tulips",
        "tulips",
        {"time": "day", "flower": "tulip", "first": 0},
        "L",
        "holland",
        ("rows of colourful tulips", "A tulip field in Holland in spring."),
    ),
    Shot(
        "lavender",
        "tulips",
        {"time": "golden", "flower": "lavender"},
        "T",
        "provence",
        ("rows of purple lavender", "A lavender field in the evening light."),
    ),
    Shot(
        "mountain-lake",
        "lake",
        {"time": "day", "snow": 0.6, "wood": True, "rough": 0.03},
        "L",
        "alps",
        ("mountains reflected in a calm lake", "A clear lake with fir trees on its shore."),
    ),
    Shot(
        "lava",
        "volcano",
        {"time": "night"},
        "P",
        "hawaii",
        ("a volcano erupting at night with glowing lava", "Lava running down the mountain."),
    ),
    Shot(
        "waterfall",
        "waterfall",
        {"falls": 1},
        "P",
        "iceland",
        ("a waterfall plunging into a pool", "White water falling over a mossy cliff."),
    ),
    Shot(
        "reef",
        "underwater",
        {"fish": "#f4d83a"},
        "F",
        "maldives",
        ("yellow fish swimming under water", "Snorkelling above a coral reef."),
    ),
    Shot(
        "winter-forest",
        "forest",
        {"season": "winter", "time": "overcast", "falling": False},
        "P",
        "lapland",
        ("fir trees covered in snow", "A snowy forest in winter."),
    ),
    Shot(
        "snowfall",
        "forest",
        {"season": "winter", "time": "overcast", "falling": True, "path": True},
        "S",
        "blackforest",
        ("snowflakes falling in the woods", "It is snowing on the forest path."),
    ),
    Shot(
        "autumn-forest",
        "forest",
        {"season": "autumn", "path": True, "time": "golden"},
        "L",
        "vermont",
        ("an autumn forest with orange leaves", "A path through the woods in fall."),
    ),
    Shot(
        "summer-forest",
        "forest",
        {"season": "summer", "firs": False, "time": "day", "path": False},
        "T",
        "blackforest",
        ("green trees in a summer forest", "In the shade of leafy trees."),
    ),
    Shot(
        "foggy-forest",
        "forest",
        {"season": "fog", "firs": True, "path": False},
        "S",
        "blackforest",
        ("a dark forest in thick fog", "Fog between the fir trees."),
    ),
    Shot(
        "lone-tree",
        "lone_tree",
        {"season": "summer", "time": "day"},
        "L",
        "ireland",
        ("a single green tree on a hill", "One tree standing alone in a meadow."),
    ),
    Shot(
        "cherry-blossom",
        "lone_tree",
        {"season": "spring", "time": "day"},
        "Q",
        "kyoto",
        ("a cherry tree in pink blossom", "Blossom time in spring."),
    ),
    Shot(
        "bare-tree",
        "lone_tree",
        {"season": "bare", "time": "sunset"},
        "S",
        "kenya",
        ("a leafless tree against the evening sky", "The black branches of a dead tree at dusk."),
    ),
    Shot(
        "palm-beach",
        "beach",
        {"time": "day", "palms": True, "umbrella": False},
        "L",
        "bali",
        ("a tropical beach with palm trees", "Palms leaning over the sand by the sea."),
    ),
    Shot(
        "umbrella",
        "beach",
        {"time": "day", "palms": False, "umbrella": True, "cloth": "#d8322c"},
        "F",
        "algarve",
        ("a red and white parasol on the beach", "Sun umbrella on the sand by the surf."),
    ),
    Shot(
        "cabin",
        "snowfield",
        {"time": "dusk", "cabin": True},
        "L",
        "lapland",
        ("a log cabin in the snow with lit windows", "A cosy house on a winter evening."),
    ),
    Shot(
        "snow-plain",
        "snowfield",
        {"time": "day", "cabin": False},
        "W",
        "lapland",
        ("a wide snowy landscape on a sunny day", "Fresh snow on open land with a few firs."),
    ),
    Shot(
        "milky-way",
        "starry",
        {"what": "milkyway", "ground": "firs"},
        "T",
        "atacama",
        ("the milky way in the night sky", "Thousands of stars above dark trees."),
    ),
    Shot(
        "crescent",
        "starry",
        {"what": "crescent", "ground": "hills"},
        "F",
        "home",
        ("a crescent moon over the hills", "The thin moon and a few stars."),
    ),
    Shot(
        "aurora",
        "aurora",
        {"hue": "#3cf08a", "ground": "firs"},
        "L",
        "lofoten",
        ("northern lights above the forest", "Green aurora in the arctic night."),
    ),
    Shot(
        "lightning",
        "lightning",
        {"bolts": 1, "ground": "plain"},
        "P",
        "arizona",
        ("lightning in a dark sky", "A thunderstorm, one big bolt striking the ground."),
    ),
    Shot(
        "fireworks",
        "fireworks",
        {"ground": "town"},
        "F",
        "sydney",
        ("fireworks over the rooftops", "New Year's Eve in our town."),
    ),
    Shot(
        "campfire",
        "campfire",
        {"which": (False, True), "time": "night"},
        "S",
        "vermont",
        ("a campfire burning in the night", "Flames and sparks of a fire in the dark."),
    ),
    Shot(
        "tent",
        "campfire",
        {"which": (True, False), "time": "dusk"},
        "L",
        "lofoten",
        ("our tent at the edge of the woods at dusk", "Camping: a glowing tent in the evening."),
    ),
    Shot(
        "horse",
        "animal",
        {"kind": "horse", "time": "sunset", "count": 1},
        "L",
        "ireland",
        ("a horse in a field at sunset", "Silhouette of a horse against an orange sky."),
    ),
    Shot(
        "camels",
        "animal",
        {"kind": "camel", "time": "golden", "count": 3, "place": 0.0},
        "W",
        "sahara",
        ("three camels walking through the desert", "A small caravan in the evening."),
    ),
    Shot(
        "elephant",
        "animal",
        {"kind": "elephant", "time": "sunset", "count": 1},
        "L",
        "kenya",
        ("an elephant on the savanna in the evening", "The outline of an African elephant."),
    ),
    Shot(
        "stag",
        "animal",
        {"kind": "deer", "time": "dawn", "count": 1},
        "F",
        "blackforest",
        ("a stag with antlers at sunrise", "A deer on a hill in the early morning."),
    ),
    Shot(
        "dog",
        "animal",
        {"kind": "dog", "time": "golden", "count": 1},
        "S",
        "home",
        ("our dog on an evening walk", "A dog standing on the hill, tail up."),
    ),
    Shot(
        "cat",
        "animal",
        {"kind": "cat", "time": "sunset", "count": 1},
        "Q",
        "home",
        ("the cat sitting outside at sunset", "A cat watching the evening sky."),
    ),
    Shot(
        "birds",
        "birds",
        {"time": "sunset"},
        "W",
        "brittany",
        ("a flock of birds in the evening sky", "Birds flying south at sunset."),
    ),
    Shot(
        "sailboat",
        "boats",
        {"time": "day", "count": 1, "sail": "#f8f6f0"},
        "L",
        "brittany",
        ("a white sailing boat on the blue sea", "One yacht on a fine sailing day."),
    ),
    Shot(
        "red-sails",
        "boats",
        {"time": "golden", "count": 3, "sail": "#c8382c"},
        "W",
        "algarve",
        ("three boats with red sails", "Red sails in the evening."),
    ),
    Shot(
        "balloon",
        "balloons",
        {"time": "day", "count": 1, "green": True},
        "P",
        "tuscany",
        ("a hot-air balloon over green hills", "One big striped balloon in the sky."),
    ),
    Shot(
        "balloon-festival",
        "balloons",
        {"time": "dawn", "count": 6, "green": False},
        "L",
        "cappadocia",
        ("many hot-air balloons at sunrise", "Balloons floating over the desert in Cappadocia."),
    ),
    Shot(
        "lighthouse",
        "lighthouse",
        {"time": "day", "striped": True},
        "P",
        "brittany",
        ("a red and white lighthouse on the rocks", "The old lighthouse by the sea."),
    ),
    Shot(
        "lighthouse-night",
        "lighthouse",
        {"time": "dusk", "striped": False},
        "S",
        "ireland",
        ("the beam of a lighthouse at nightfall", "A white lighthouse shining in the evening."),
    ),
    Shot(
        "city-night",
        "skyline",
        {"time": "night", "river": True},
        "L",
        "newyork",
        (
            "a city skyline at night, lights in the water",
            "Skyscrapers with lit windows after dark.",
        ),
    ),
    Shot(
        "city-day",
        "skyline",
        {"time": "day", "river": False},
        "L",
        "chicago",
        ("tall office buildings behind a park by day", "Downtown skyscrapers under a blue sky."),
    ),
    Shot(
        "desert-road",
        "road",
        {"time": "day", "land": "desert"},
        "F",
        "arizona",
        ("an empty road through the desert", "A straight highway to the horizon."),
    ),
    Shot(
        "rainbow",
        "rainbow",
        {},
        "L",
        "ireland",
        ("a rainbow over green hills", "After the rain: a rainbow in a grey sky."),
    ),
    Shot(
        "aeroplane",
        "plane",
        {"time": "day", "trail": True, "clouds": 0.1, "size": 0.26},
        "F",
        "home",
        ("an aeroplane in the sky with white trails", "A plane flying high above us."),
    ),
    Shot(
        "windmill",
        "windmill",
        {"time": "day", "base": "grain", "crop": "wheat"},
        "T",
        "holland",
        ("an old windmill in the fields", "A Dutch mill behind ripe grain."),
    ),
    Shot(
        "red-apples",
        "fruit",
        {"fruit": "apples", "bowl": False, "count": 4},
        "F",
        "home",
        ("red apples on a wooden table", "Apples from the garden."),
    ),
    Shot(
        "oranges",
        "fruit",
        {"fruit": "oranges", "bowl": True},
        "F",
        "home",
        ("a bowl of oranges", "Oranges in a fruit bowl on the kitchen table."),
    ),
    Shot(
        "lemons",
        "fruit",
        {"fruit": "lemons", "bowl": False, "count": 3},
        "S",
        "provence",
        ("three yellow lemons on a table", "Fresh lemons in window light."),
    ),
    Shot(
        "plums",
        "fruit",
        {"fruit": "plums", "bowl": False, "count": 6},
        "Q",
        "home",
        ("purple plums on the table", "A handful of plums."),
    ),
)


def paint(number: int, scale: float = 1.0) -> Image.Image:
    """The picture of SHOTS[number], upright, without EXIF; `scale` shrinks it for tests."""
    shot = SHOTS[number]
    width, height = (round(side * scale) for side in SIZES[shot.size])
    # The third number keeps the album's chance apart from that of all training pictures.
    stage = Stage((2026, number, 77), width, height, {"noise": 0.007, **shot.wishes})
    return develop(stage, SCENES[shot.family](stage))


def _degrees(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    seconds = round(abs(value) * 360_000)
    return (
        IFDRational(seconds // 360_000),
        IFDRational(seconds // 6000 % 60),
        IFDRational(seconds % 6000, 100),
    )


def exif_of(number: int, orientation: int) -> Image.Exif:
    """Date, place, camera and lens of one photo."""
    shot = SHOTS[number]
    rng = np.random.default_rng([2026, number, 78])
    make, model, lens = CAMERAS[int(rng.integers(len(CAMERAS)))]
    hours = {"night": 23, "dusk": 21, "sunset": 20, "golden": 18, "dawn": 6}
    hour = hours.get(
        str(shot.wishes.get("time")),
        23 if shot.family in ("starry", "aurora", "moonlit_sea", "fireworks", "lightning") else 13,
    )
    winter = (
        shot.family == "snowfield"
        or shot.wishes.get("season") == "winter"
        or shot.family == "aurora"
    )
    month = (
        1
        if winter
        else {"autumn": 10, "spring": 4}.get(
            str(shot.wishes.get("season")), int(rng.integers(5, 9))
        )
    )
    taken = datetime(
        int(rng.integers(2015, 2026)),
        month,
        int(rng.integers(1, 29)),
        hour,
        int(rng.integers(60)),
        int(rng.integers(60)),
    )
    if shot.family == "fireworks":
        taken = datetime(taken.year, 1, 1, 0, 4, 31)
    when = taken.strftime("%Y:%m:%d %H:%M:%S")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x0132] = make, model, orientation, when
    detail = exif.get_ifd(0x8769)
    detail[0x9003] = detail[0x9004] = when
    detail[0xA434] = lens
    detail[0x8827] = int(rng.choice([100, 200, 400])) * (8 if hour > 20 else 1)
    latitude, longitude = PLACES[shot.place]
    latitude, longitude = latitude + rng.normal(0, 0.01), longitude + rng.normal(0, 0.01)
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N" if latitude >= 0 else "S", _degrees(latitude)
    gps[3], gps[4] = "E" if longitude >= 0 else "W", _degrees(longitude)
    return exif


def write_album(folder: Path) -> None:
    """Write the photos of the album into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, shot in enumerate(SHOTS):
        picture = paint(number)
        orientation = 1
        if picture.height > picture.width and number % 2:
            # As a camera held upright stores it: pixels on their side, and a note of it.
            picture, orientation = picture.transpose(Image.Transpose.ROTATE_90), 6
        picture.save(folder / f"{shot.name}.jpg", quality=80, exif=exif_of(number, orientation))
