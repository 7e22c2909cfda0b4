# ruff: noqa: E501
"""Captions: sentences a person might write under a picture, from what was painted in it.

A pattern's (a|b|c) is one of its parts; {when} and other names stand for phrases of the facts.
A key of a family's table is '' (always true) or 'name=value' (true of this picture).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

WHEN: dict[str, list[str]] = {
    "day": [
        "on a sunny day",
        "under a blue sky",
        "in bright daylight",
        "on a clear day",
        "in summer",
    ],
    "golden": [
        "in the golden hour",
        "in warm evening light",
        "late in the afternoon",
        "in golden light",
    ],
    "sunset": [
        "at sunset",
        "as the sun goes down",
        "under an orange sky",
        "in the evening glow",
        "at the end of the day",
    ],
    "dawn": [
        "at dawn",
        "at sunrise",
        "early in the morning",
        "in soft morning light",
        "under a pink sky",
    ],
    "dusk": ["at dusk", "after sunset", "in the blue hour", "at nightfall"],
    "night": ["at night", "in the dark", "after dark", "under a night sky"],
    "overcast": ["on a grey day", "under an overcast sky", "in cloudy weather", "on a dull day"],
    "storm": ["before a storm", "in stormy weather", "under dark clouds"],
    "fog": ["in the fog", "on a misty morning", "in thick mist"],
}

PATTERNS: dict[str, dict[str, list[str]]] = {
    "ocean": {
        "": [
            "the (sea|ocean) {when}",
            "(a view over the open sea|open water to the horizon|nothing but water and sky) {when}",
            "a (seascape|view of the ocean) {when}",
            "waves on the sea {when}",
            "(the horizon over|looking out over) the ocean {when}",
        ],
        "time=sunset": [
            "sunset over the (ocean|sea)",
            "the sun (setting|going down|sinking) over the (water|ocean|sea)",
            "an orange sunset reflected in the (sea|water)",
            "(the last light|evening sun) on the sea",
            "a (red|burning|glowing) sky above the ocean",
        ],
        "time=day": [
            "(deep |bright |)blue sea under a (blue|cloudy|summer) sky",
            "sunlight (glittering|sparkling) on the (sea|waves|water)",
            "a calm blue ocean on a sunny day",
            "white clouds above blue water",
        ],
        "time=storm": [
            "a (rough|stormy|grey) sea under dark clouds",
            "a storm over the ocean",
            "high waves and a black sky",
        ],
        "time=dawn": [
            "sunrise over the (sea|ocean)",
            "a pink morning sky over the water",
            "the sun coming up out of the sea",
        ],
        "time=golden": [
            "golden light on the sea",
            "the low sun shining over the ocean",
            "warm evening light over the water",
        ],
        "time=overcast": ["a grey sea on a cloudy day", "a dull sky over grey water"],
    },
    "mountains": {
        "": [
            "(mountains|a mountain range|high mountains|rocky peaks) {when}",
            "a mountain (landscape|panorama|view) {when}",
            "(steep|rugged|towering) mountains (behind a green valley|in the distance|)",
            "peaks of a mountain range {when}",
        ],
        "time=day": ["mountain peaks under a blue sky", "a sunny day in the (mountains|alps)"],
        "time=sunset": [
            "sunset in the mountains",
            "mountains glowing in the evening light",
            "alpenglow on the peaks",
        ],
        "time=dawn": ["sunrise in the mountains", "morning light on the summits"],
        "time=overcast": [
            "(misty|grey) mountains under low clouds",
            "a gloomy day in the mountains",
        ],
        "snowy=True": [
            "snow-capped (mountains|peaks)",
            "snowy mountains {when}",
            "snow and rock on high mountains",
        ],
    },
    "dunes": {
        "": [
            "(sand dunes|desert dunes|dunes in the desert) {when}",
            "a (sandy |)desert {when}",
            "(endless|rolling|huge) sand dunes",
            "the (sahara|desert) {when}",
            "(ripples|wind patterns) in the sand of a desert",
        ],
        "time=sunset": ["sunset over the desert", "orange dunes in the evening"],
        "time=day": ["hot sand under a blue sky", "a dry desert landscape in the midday sun"],
        "time=dawn": ["sunrise over sand dunes"],
    },
    "hills": {
        "": [
            "(rolling |)green hills {when}",
            "a (green|grassy) (landscape|countryside) {when}",
            "(meadows|pastures|grassland) on gentle hills",
            "hills covered with grass {when}",
            "the (english|irish|open) countryside {when}",
        ],
        "time=day": ["green hills under a blue sky with clouds", "a sunny day in the countryside"],
        "time=dawn": ["morning in the hills"],
    },
    "grain": {
        "": [
            "a (wide |)(crop |)field {when}",
            "farmland {when}",
            "a field that reaches to the horizon",
        ],
        "crop=wheat": [
            "a (field of wheat|wheat field|golden wheat field|field of ripe grain|barley field|cornfield) {when}",
            "ripe (wheat|grain|corn) before the harvest",
            "golden fields of grain",
        ],
        "crop=rape": [
            "a (yellow|blooming|bright yellow) (rapeseed|canola|rape) field {when}",
            "a field of yellow flowers {when}",
            "canola in bloom",
        ],
        "crop=grass": [
            "a (green field|meadow|field of grass|grassland) {when}",
            "tall grass in a meadow {when}",
        ],
    },
    "tulips": {
        "": ["rows of flowers (to the horizon|in a field)", "a flower field {when}"],
        "flower=tulip": [
            "(a tulip field|tulip fields|fields of tulips|rows of tulips) {when}",
            "colourful tulips (in holland|in rows|in the netherlands)",
            "stripes of (coloured|red and yellow) tulips",
            "a spring field full of tulips",
        ],
        "flower=lavender": [
            "(a lavender field|lavender fields|rows of lavender) {when}",
            "purple lavender (in provence|in bloom|rows)",
            "a purple field of flowers",
        ],
    },
    "lake": {
        "": [
            "a (lake|mountain lake|calm lake|still lake) {when}",
            "mountains (reflected|mirrored) in a (lake|calm lake)",
            "(perfect |)reflections in (still|calm) water",
            "a lake (surrounded by|below) mountains {when}",
            "the reflection of the mountains in the water",
        ],
        "wood=True": [
            "a lake with (a forest|fir trees) on the shore",
            "trees along the shore of a lake {when}",
        ],
        "time=sunset": ["sunset at the lake"],
        "time=dawn": ["an early morning at the lake"],
    },
    "volcano": {
        "": [
            "a volcano {when}",
            "(smoke|ash) rising from a volcano",
            "a (smoking|erupting|active) volcano",
            "the crater of a volcano (smoking|with a plume of smoke)",
        ],
        "time=night": [
            "a volcano erupting at night",
            "(glowing|red|hot) lava running down a volcano",
        ],
        "time=dusk": [
            "a volcanic eruption at dusk",
            "lava flowing down a mountain",
            "lava and smoke",
        ],
        "time=sunset": ["lava on the slope of a volcano"],
        "time=day": ["a volcano with a cloud of smoke under a blue sky"],
    },
    "waterfall": {
        "": [
            "a (waterfall|tall waterfall|waterfall in the forest|jungle waterfall)",
            "water (falling|plunging|rushing) over a (cliff|rock face)",
            "a waterfall (dropping into a pool|and mossy rocks|between green plants)",
            "(white|misty) water of a waterfall",
            "a cascade in (a green gorge|the woods)",
        ],
        "falls=2": ["two waterfalls side by side"],
        "falls=3": ["three waterfalls over a cliff"],
    },
    "underwater": {
        "": [
            "(fish|a school of fish|a shoal of fish|colourful fish) (underwater|in the sea|over a reef)",
            "an underwater (scene|photo|picture) with fish",
            "a coral reef with fish",
            "(diving|snorkelling) among tropical fish",
            "sun rays falling through blue water",
            "{fishes} fish swimming in the sea",
        ],
    },
    "forest": {
        "": ["a forest {when}", "(in the woods|trees in a forest|woodland) {when}"],
        "season=winter": [
            "a (snowy|snow-covered|winter|frozen) forest",
            "fir trees (covered with|under|full of) snow",
            "(deep snow|fresh snow) in the woods",
            "a winter wonderland of snowy pines",
            "a cold winter day in the forest",
        ],
        "season=autumn": [
            "an autumn forest",
            "a forest in (autumn|fall) colours",
            "(orange|red and yellow|golden) leaves in the woods",
            "trees in fall with coloured leaves",
            "autumn leaves on the ground of a forest",
        ],
        "season=summer": [
            "a green forest (in summer|)",
            "(sunlit|leafy|lush) green trees",
            "a wood in full leaf",
        ],
        "season=fog": [
            "a (foggy|misty) forest",
            "fog (between|among) the trees",
            "a spooky forest in the mist",
            "trees fading into the fog",
        ],
        "path=True": ["a (path|trail|footpath) through the (woods|forest)"],
        "falling=True": ["snow falling in the forest", "snowflakes falling between fir trees"],
    },
    "lone_tree": {
        "": [
            "a (lone|single|solitary) tree {when}",
            "one tree (on a hill|in a field|standing alone)",
            "a tree on a grassy hill {when}",
        ],
        "season=summer": ["a green tree in a meadow"],
        "season=autumn": ["a tree with (orange|yellow|autumn) leaves", "an autumn tree on a hill"],
        "season=spring": [
            "a (cherry tree|blossoming tree|tree in bloom)",
            "pink blossom on a tree in spring",
            "a cherry blossom tree in a field",
        ],
        "season=bare": [
            "a (bare|leafless|dead|dry) tree {when}",
            "the silhouette of a bare tree",
            "a tree without leaves against the sky",
        ],
    },
    "beach": {
        "": [
            "a (beach|sandy beach) {when}",
            "waves (on|breaking on|washing up) a (sandy |)beach",
            "the seaside {when}",
            "(sand and sea|the shore) {when}",
        ],
        "palms=True": [
            "a (tropical |)beach with palm trees {when}",
            "palm trees by the sea",
            "(coconut palms|palms) on a beach",
            "an exotic island beach",
        ],
        "umbrella=True": ["a beach umbrella (on the sand|by the sea)", "a parasol on the beach"],
        "time=day": ["turquoise water and (white|golden) sand", "a beach holiday in the sun"],
        "time=sunset": ["a beach at sunset", "the sun setting behind the surf"],
    },
    "snowfield": {
        "": [
            "a snowy landscape {when}",
            "(deep snow|a field of snow|snow-covered land) {when}",
            "a winter landscape (with fir trees|)",
            "snowy hills and fir trees",
        ],
        "cabin=True": [
            "a (cabin|wooden cabin|log cabin|small house|hut|cottage) in the snow",
            "a snow-covered (cabin|house|hut) {when}",
            "a (cosy |)log cabin in winter",
            "smoke from the chimney of a house in the snow",
        ],
    },
    "starry": {
        "": [
            "(a starry sky|stars|a sky full of stars|the night sky) (over dark hills|above the trees|)",
            "stars at night",
            "a clear night with (many |)stars",
        ],
        "what=milkyway": [
            "the milky way",
            "the milky way (over|above) (hills|a dark landscape)",
            "our galaxy in the night sky",
        ],
        "what=moon": [
            "a full moon (at night|in the night sky|over the hills)",
            "the moon and stars",
            "a (bright|big) moon in a dark sky",
        ],
        "what=crescent": [
            "a crescent moon (at night|and stars)",
            "the new moon in a starry sky",
            "a sickle moon",
        ],
        "ground=lake": ["stars over a lake at night", "a night sky reflected in a lake"],
    },
    "moonlit_sea": {
        "": [
            "(the |a full |)moon over the (sea|ocean)",
            "moonlight on the (water|sea|waves)",
            "a moonlit sea",
            "the ocean at night under a full moon",
            "a full moon reflected in the water",
            "the sea by night",
        ]
    },
    "aurora": {
        "": [
            "(the northern lights|northern lights|aurora borealis|the aurora|polar lights) (over a dark landscape|in the night sky|above the horizon|)",
            "green (lights|curtains of light|northern lights) in the sky",
            "a green glow in the arctic sky",
        ],
        "ground=lake": ["northern lights reflected in a lake"],
        "ground=mountains": ["the aurora over snowy mountains"],
        "ground=firs": ["northern lights above a forest"],
    },
    "lightning": {
        "": [
            "(lightning|a bolt of lightning|a lightning strike|a flash of lightning) (at night|in a dark sky|)",
            "a thunderstorm (at night|with lightning|)",
            "lightning striking (the ground|during a storm)",
            "a storm with thunder and lightning",
        ],
        "ground=sea": ["lightning over the sea", "a thunderstorm at sea"],
        "ground=town": ["a thunderstorm above a town", "lightning over the city lights"],
    },
    "fireworks": {
        "": [
            "fireworks (at night|in the sky|)",
            "(colourful|bright) fireworks",
            "a firework display",
            "new year's eve fireworks",
            "rockets exploding in the night sky",
        ],
        "ground=water": ["fireworks over the water", "fireworks reflected in a river"],
        "ground=town": ["fireworks over the roofs of a town"],
        "ground=crowd": ["a crowd watching fireworks", "people looking at fireworks"],
    },
    "campfire": {
        "": ["camping {when}", "a camp (in the woods|in the wild) {when}"],
        "which=(True, True)": [
            "a tent and a campfire {when}",
            "a campfire beside a tent",
            "camping under the stars with a fire",
        ],
        "which=(True, False)": [
            "a (tent|glowing tent|lit tent) {when}",
            "a camping tent by the forest",
        ],
        "which=(False, True)": [
            "a (campfire|bonfire|fire) {when}",
            "a fire burning in the dark",
            "flames and sparks of a campfire",
        ],
    },
    "animal": {
        "": [
            "a {kind} {when}",
            "the silhouette of a {kind} (at sunset|against the sky|)",
            "a {kind} standing (in a field|against the evening sky|on a hill)",
            "a {kind} in the last light",
            "(an animal|a dark shape of an animal) against the (sky|setting sun)",
            "a {kind} outdoors",
        ],
        "count=3": [
            "three {kind}s (in a row|walking|) {when}",
            "a group of {kind}s",
            "a (herd|line) of {kind}s {when}",
        ],
        "kind=camel": ["(camels|a camel) in the desert", "a camel on the sand {when}"],
        "kind=elephant": ["an african elephant {when}", "an elephant on the savanna"],
        "kind=deer": ["a stag with (big |)antlers", "a stag at sunset", "a deer with antlers"],
        "kind=dog": ["a dog (waiting|standing|wagging its tail) outside", "a pet dog {when}"],
        "kind=cat": ["a cat sitting {when}", "a sitting cat"],
        "kind=horse": ["a horse in a pasture {when}", "a horse on a meadow"],
    },
    "birds": {
        "": [
            "birds {when}",
            "(a flock of|flying|many) birds (in the sky|flying|)",
            "(birds|seagulls|geese) flying {when}",
            "silhouettes of birds against the sky",
            "a flock of birds on the wing",
        ]
    },
    "boats": {
        "": ["(sailing|sailboats on the sea) {when}", "sails on the water {when}"],
        "count=1": [
            "a (sailboat|sailing boat|yacht|boat) on the (sea|water) {when}",
            "a (sailboat|yacht) alone on the ocean",
            "a (lone|small) boat with sails",
        ],
        "count=3": [
            "(three|several) (sailboats|sailing boats|boats) on the sea {when}",
            "a regatta",
            "sailing boats on the water",
        ],
        "sail=#c8382c": ["a boat with red sails", "red sails on the sea"],
    },
    "balloons": {
        "": [
            "(hot air|hot-air) balloon {when}",
            "ballooning {when}",
            "a colourful (hot air |)balloon in the sky",
        ],
        "count=1": [
            "a hot-air balloon {when}",
            "a single balloon in the air",
            "a striped hot air balloon",
        ],
        "count=3": ["three hot air balloons {when}", "hot-air balloons flying over hills"],
        "count=6": [
            "(many|several) hot-air balloons {when}",
            "a balloon festival",
            "colourful balloons floating over the land",
        ],
        "green=False": ["hot-air balloons over the desert"],
    },
    "lighthouse": {
        "": [
            "a lighthouse {when}",
            "a lighthouse (on a rocky coast|on the rocks|by the sea|on an island)",
            "a (tall|white) tower by the ocean",
        ],
        "striped=True": ["a red and white lighthouse", "a striped lighthouse"],
        "striped=False": ["a white lighthouse"],
        "time=dusk": ["the beam of a lighthouse at dusk", "a lighthouse shining in the evening"],
        "time=storm": ["a lighthouse in a storm"],
    },
    "skyline": {
        "": [
            "a city {when}",
            "(a city skyline|the skyline of a city|skyscrapers|high-rise buildings|downtown towers) {when}",
            "(tall buildings|office towers) in a big city",
        ],
        "time=night": [
            "a city at night",
            "city lights",
            "lit windows of skyscrapers",
            "a skyline with lights at night",
        ],
        "time=dusk": ["city lights at dusk", "the lights of the city coming on"],
        "time=day": ["a modern city by day", "skyscrapers under a blue sky"],
        "river=True": [
            "a city (reflected in the water|by the river)",
            "skyscrapers on the waterfront",
        ],
        "river=False": ["city towers behind a park"],
    },
    "road": {
        "": [
            "a (straight|long|empty) road {when}",
            "a (road|highway) to the horizon",
            "an (empty highway|open road) {when}",
            "driving down a straight road",
        ],
        "land=desert": [
            "a (desert road|road through the desert) {when}",
            "a highway in dry country",
        ],
        "land=meadow": ["a country road through green fields", "a road between meadows {when}"],
    },
    "rainbow": {
        "": [
            "a rainbow",
            "a rainbow (over|above) (green hills|the countryside|a meadow)",
            "a rainbow in a grey sky",
            "(after the rain|rain and sun): a rainbow",
            "a colourful (arc|bow) in the sky",
        ]
    },
    "plane": {
        "": [
            "(an aeroplane|an airplane|a plane|a passenger jet|a jet|an airliner) (in the sky|flying|in the air) {when}",
            "a plane (overhead|high above|in flight)",
            "an aircraft among the clouds",
        ],
        "trail=True": [
            "a plane with (white trails|contrails|vapour trails)",
            "a jet leaving a trail in the sky",
        ],
    },
    "windmill": {
        "": [
            "a (windmill|dutch windmill|old windmill|mill) {when}",
            "an old windmill (in the fields|in the countryside)",
            "a mill with four sails",
        ],
        "base=tulips": [
            "a windmill and tulips",
            "a windmill behind a tulip field",
            "a dutch windmill with rows of flowers",
        ],
        "base=grain": ["a windmill in a grain field"],
    },
    "fruit": {
        "": [
            "(fresh |)fruit on a (wooden |)table",
            "a still life with {things}",
            "{things} (on a table|in the kitchen|)",
            "(ripe|fresh) {things}",
        ],
        "bowl=True": ["a bowl of {things}", "a (fruit bowl|bowl of fruit)", "{things} in a bowl"],
        "bowl=False": ["{things} on a wooden table", "{things} lying on a table"],
        "fruit=mixed": ["apples and oranges", "(mixed|different kinds of) fruit"],
        "fruit=apples": ["red apples"],
        "fruit=oranges": ["oranges, citrus fruit"],
        "fruit=lemons": ["yellow lemons", "citrus fruit"],
        "fruit=tomatoes": ["red tomatoes"],
        "fruit=plums": ["purple plums"],
    },
    "bouquet": {
        "": [
            "a vase of flowers",
            "{bloom} flowers in a vase",
            "a (bouquet|bunch) of {bloom} flowers",
            "flowers on a table",
            "(cut|fresh) flowers in a vase on the table",
            "a still life with {bloom} flowers",
        ],
    },
    "bananas": {
        "": ["bananas (on a table|)", "(ripe|yellow) bananas", "a still life with bananas"],
        "count=1": ["a banana on the table", "one banana"],
        "count=3": ["a bunch of bananas", "three bananas"],
        "count=4": ["a bunch of bananas"],
    },
    "bridge": {
        "": [
            "a (suspension |big |)bridge (over a river|over the water|) {when}",
            "a long bridge across (a bay|a river|the water)",
            "the (cables|towers) of a suspension bridge {when}",
        ],
        "steel=#a83a28": ["a red suspension bridge", "a red bridge {when}"],
        "time=dusk": ["a bridge with lights at dusk"],
    },
    "kite": {
        "": [
            "a (colourful |)kite (in the sky|flying|in the wind|)",
            "flying a kite {when}",
            "a kite with a long tail",
            "a diamond kite high in the air",
        ]
    },
    "rainy_street": {
        "": [
            "a (rainy|wet) street at night",
            "street lamps in the rain",
            "city lights (reflected|blurred) on a wet road",
            "rain in the city at night",
            "bokeh of lights on a rainy night",
        ],
        "umbrella=True": [
            "a person with an umbrella in the rain",
            "someone walking under an umbrella at night",
        ],
    },
}


def expand(pattern: str, facts: Mapping[str, Any], rng: np.random.Generator) -> str:
    """One sentence of a pattern."""

    def choose(match: re.Match[str]) -> str:
        parts = match.group(1).split("|")
        return parts[int(rng.integers(len(parts)))]

    text = re.sub(r"\(([^()]*\|[^()]*)\)", choose, pattern)

    def name(match: re.Match[str]) -> str:
        options = phrases(match.group(1), facts)
        return options[int(rng.integers(len(options)))]

    text = re.sub(r"\{(\w+)\}", name, text)
    text = re.sub(r"\s+", " ", text).strip(" ,")
    return text.replace("a elephant", "an elephant").replace("deers", "deer")


HUES = {
    "#f2a01c": "orange", "#f4d83a": "yellow", "#d8e4ea": "silver", "#e8602a": "orange", "#3a6ae0": "blue",
}  # fmt: skip


def phrases(name: str, facts: Mapping[str, Any]) -> list[str]:
    if name == "when":
        return WHEN[str(facts.get("time", "day"))]
    if name == "fishes":
        return [HUES[facts["fish"]]]
    if name == "things":
        return ["fruit" if facts["fruit"] == "mixed" else str(facts["fruit"])]
    return [str(facts[name])]


def captions(
    family: str, facts: Mapping[str, Any], rng: np.random.Generator, count: int
) -> list[str]:
    """`count` different captions for a picture of the family."""
    table = PATTERNS[family]
    general, particular = [], []
    for key, patterns in table.items():
        name, _, value = key.partition("=")
        if not key:
            general += patterns
        elif str(facts.get(name)) == value:
            particular += patterns
    out: list[str] = []
    for _ in range(40):
        # What sets a picture apart from others of its family is told more often.
        pool = particular if particular and rng.random() < 0.65 else general
        text = expand(pool[int(rng.integers(len(pool)))], facts, rng)
        style = rng.random()
        if style < 0.05:
            text = f"a {'photo' if style < 0.03 else 'picture'} of {text}"
        elif style < 0.35:
            text = text[0].upper() + text[1:] + "."
        if text.lower().strip(".") not in {t.lower().strip(".") for t in out}:
            out.append(text)
        if len(out) == count:
            break
    return out
