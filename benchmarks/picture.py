"""Draw the README's picture: what some queries find in the sample album, whatever that is.

python benchmarks/picture.py data/results.jpg
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipsearch.library import Library

ALBUM = Path(__file__).resolve().parent.parent / "data" / "album"
QUERIES = (
    "sunset over ocean",
    "a city at night",
    "mountains with snow",
    "fruit on a table",
    "hot air balloons",
)
CELL, HITS, MARGIN, CAPTION = (232, 160), 4, 10, 34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    row_height = CAPTION + CELL[1] + MARGIN
    width = MARGIN + HITS * (CELL[0] + MARGIN)
    sheet = Image.new("RGB", (width, len(QUERIES) * row_height + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(18), ImageFont.load_default(12)
    with tempfile.TemporaryDirectory() as work, Library.open(work) as library:
        library.index([ALBUM])
        for line, query in enumerate(QUERIES):
            top = MARGIN + line * row_height
            pen.text((MARGIN, top), f'clipsearch query "{query}"', "black", font)
            for place, hit in enumerate(library.query(query, k=HITS)):
                left = MARGIN + place * (CELL[0] + MARGIN)
                with Image.open(hit.path) as photo:
                    upright = ImageOps.exif_transpose(photo).convert("RGB")
                    sheet.paste(ImageOps.fit(upright, CELL), (left, top + CAPTION - 6))
                pen.text((left + 6, top + CAPTION), f"{hit.score:.3f}", "white", small)
    sheet.save(out, quality=82)


if __name__ == "__main__":
    main()
