"""WordNet as Debian's `wordnet-base` installs it: nouns, how common, and what they are kinds of.

File formats: wndb(5WN) and cntlist(5WN).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

# Lexicographer files (lexnames(5WN)) of nouns that a photo can show.
VISIBLE_KINDS = {
    4: "act",
    5: "animal",
    6: "artifact",
    8: "body",
    11: "event",
    13: "food",
    14: "group",
    15: "location",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    27: "substance",
}


@dataclass(slots=True)
class Synset:
    """One meaning: its words (commonest first), its gloss, and the meanings it is a kind of."""

    offset: int
    kind: int
    lemmas: list[str]
    gloss: str
    hypernyms: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Nouns:
    """WordNet's nouns.

    Attributes:
        synsets: by offset.
        senses: the offsets of a lemma, commonest sense first.
        counts: how often a sense was met in the tagged corpora, by (lemma, offset).
    """

    synsets: dict[int, Synset]
    senses: dict[str, list[int]]
    counts: dict[tuple[str, int], int]

    def commonest(self, *, kinds: set[int], least: int = 1) -> list[tuple[str, Synset, int]]:
        """(lemma, synset, count) of lemmas whose first sense is of these kinds, commonest first."""
        found = []
        for lemma, offsets in self.senses.items():
            synset = self.synsets[offsets[0]]
            count = self.counts.get((lemma, offsets[0]), 0)
            if synset.kind in kinds and count >= least:
                found.append((lemma, synset, count))
        return sorted(found, key=lambda entry: (-entry[2], entry[0]))

    def ancestors(self, synset: Synset, levels: int) -> list[str]:
        """The first words of what this is a kind of, nearest first."""
        names = []
        for _ in range(levels):
            if not synset.hypernyms:
                break
            synset = self.synsets[synset.hypernyms[0]]
            names.append(synset.lemmas[0])
        return names


def read_nouns(folder: Path = Path("/usr/share/wordnet")) -> Nouns:
    """Read `data.noun`, `index.noun` and `cntlist.rev`."""
    synsets = {}
    for line in _lines(folder / "data.noun"):
        record, _, gloss = line.partition(" | ")
        fields = record.split()
        words = int(fields[3], 16)
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(words)]
        pointers = fields[5 + 2 * words :]
        synset = Synset(int(fields[0]), int(fields[1]), lemmas, gloss.strip())
        synset.hypernyms = [
            int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in "@ @i"
        ]
        synsets[synset.offset] = synset
    senses = {}
    for line in _lines(folder / "index.noun"):
        fields = line.split()
        senses[fields[0].replace("_", " ")] = [int(offset) for offset in fields[-int(fields[2]) :]]
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, number, count = line.split()
        lemma, _, sense = key.partition("%")
        lemma = lemma.replace("_", " ")
        offsets = senses.get(lemma, [])
        if sense.startswith("1:") and int(number) <= len(offsets):
            counts[lemma, offsets[int(number) - 1]] += int(count)
    return Nouns(synsets, senses, dict(counts))


def _lines(path: Path) -> list[str]:
    """The records; the licence at the head is indented by two spaces."""
    text = path.read_text(encoding="latin-1")
    return [line for line in text.splitlines() if not line.startswith("  ")]
