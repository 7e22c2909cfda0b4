"""The query layer: from the parts of a query to one vector, and from neighbours to an order.

A query has parts: words, pictures, and words to stay away from, each with a weight. What a photo
scores on a part is the cosine between their vectors, and cosines of different kinds lie in
different ranges: a photo against a photo spreads over .5 to .9, a photo against words over .15 to
.35 (the modality gap, Liang et al. 2022). Adding them up as they are would let the picture decide
alone. So each part's scores are standardised over the library, weighted and added:

    total(v) = sum_i w_i (v.q_i - mean_i) / std_i  =  v . (sum_i w_i / std_i q_i) + constant

which is one dot product again: any index for inner products can search for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.errors import UsageError
from clipsearch.records import Float32Array

# A colon, a number, the end; but a time of day ('a train at 12:30') is no weight.
# Numbers that are no weight count too: they are refused, not looked for.
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+|nan|inf(?:inity)?)"
_WEIGHTED = re.compile(rf"^(?P<text>.*[^\d\s]):(?P<weight>{_NUMBER})$", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Words:
    """A text part of a query; a negative weight asks to stay away from it."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part as a vector: (dim,) float32, unit."""

    vector: Float32Array
    weight: float


def parse_words(text: str, *, sign: int = 1) -> Words:
    """'snow' or 'snow:2' to a text and its weight.

    Raises:
        UsageError: nothing but blanks, or a weight that is not above zero.
    """
    text = text.strip()
    weight = 1.0
    if match := _WEIGHTED.match(text):
        text, weight = match["text"].strip(), float(match["weight"])
    if not text:
        raise UsageError("the query is empty", hint='say what to look for: "sunset over ocean"')
    if not 0 < weight < math.inf:
        raise UsageError(
            f"the weight of {text!r} must be a positive number, not {weight:g}",
            hint='write "snow:2" to count snow twice, --not snow to stay away from it',
        )
    return Words(text, sign * weight)


def combine(parts: Sequence[Part], sample: Float32Array) -> Float32Array:
    """One unit vector (dim,) whose dot products order photos as the parts together do.

    Args:
        parts: at least one.
        sample: (n, dim) vectors of the library that tell how far each part's scores spread;
            not used for a single part.
    """
    if len(parts) == 1 and parts[0].weight > 0:
        return parts[0].vector
    directions = np.stack([part.vector for part in parts])
    weights = np.array([part.weight for part in parts])
    weights /= np.abs(weights).max()  # only their ratios count, and a float32 ends at 3e38
    if len(sample) > 1:
        spread = (sample @ directions.T).std(axis=0)
        # A library of equal photos has no spread to go by.
        weights /= np.maximum(spread, 1e-4)
    total = weights @ directions
    length = float(np.linalg.norm(total))
    if length < 1e-12:
        raise UsageError(
            "the parts of the query cancel each other out",
            hint="change a weight, or leave out --not",
        )
    return np.ascontiguousarray(total / length, dtype=np.float32)


def check_k(k: int) -> int:
    """How many hits are asked for.

    Raises:
        UsageError: not a positive whole number.
    """
    if k < 1:
        raise UsageError(f"-k {k}: at least one hit must be asked for", hint="try -k 10")
    return k


_DATE = re.compile(r"^(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?$")


def date_bound(text: str, *, option: str) -> str:
    """'2024', '2024-06' or '2024-06-15' as the first moment of it, 'YYYY-MM-DDTHH:MM:SS'.

    `--after 2024-06` includes June, `--before 2024-06` ends before it.

    Raises:
        UsageError: no such date.
    """
    from datetime import date

    match = _DATE.match(text.strip())
    try:
        if match is None:
            raise ValueError
        year, month, day = (int(part or 1) for part in match.groups())
        return f"{date(year, month, day).isoformat()}T00:00:00"
    except ValueError:
        raise UsageError(
            f"{option} {text}: not a date", hint=f"write {option} 2024, 2024-06 or 2024-06-15"
        ) from None
