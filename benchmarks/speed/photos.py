"""Photos to time with: some 500 px as they came, and 12-megapixel mosaics of them.

    python -m benchmarks.speed.photos SOURCE WORK

SOURCE is a folder of photos, or of tar files of photos. WORK/photos/mid gets 1,000 files: the
photos themselves, then mirrored and cropped ones, written with the quantisation of their originals
so that they are as dear to decode. WORK/photos/big gets 200 mosaics of 4000 x 3000.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MID, BIG = 1000, 200


def originals(source: Path) -> Iterator[bytes]:
    """The JPEG files below a folder, in tars or not, in order."""
    for path in sorted(source.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name.endswith(".jpg"):
                        file = archive.extractfile(member)
                        assert file is not None
                        yield file.read()
        elif path.suffix.lower() in (".jpg", ".jpeg"):
            yield path.read_bytes()


def variant(image: Image.Image, number: int) -> Image.Image:
    """Another picture of the same kind: cropped by a few pixels, every second one mirrored."""
    width, height = image.size
    cut = 8 * ((number + 1) // 2)
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else image
    return turned.crop((0, cut, width - cut, height))


def make_mid(sources: list[bytes], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(MID):
        data = sources[number % len(sources)]
        round_ = number // len(sources)
        target = folder / f"{number:04}.jpg"
        if round_ == 0:
            target.write_bytes(data)
            continue
        with Image.open(io.BytesIO(data)) as image:
            tables = image.quantization
            subsampling = "4:2:0" if image.layer[0][1] == 2 else "4:4:4"
            picture = variant(image.convert("RGB"), round_)
        picture.save(target, qtables=tables, subsampling=subsampling)


def make_big(sources: list[bytes], folder: Path) -> None:
    """Four photos each, enlarged, with grain: a camera's 12 megapixels, 2 to 4 MB."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    grain = noise.integers(-7, 8, (3000, 4000, 3), dtype=np.int16)
    for number in range(BIG):
        mosaic = Image.new("RGB", (4000, 3000))
        for corner in range(4):
            data = sources[(number * 4 + corner * 37) % len(sources)]
            with Image.open(io.BytesIO(data)) as image:
                part = image.convert("RGB").resize((2000, 1500), Image.Resampling.BICUBIC)
            mosaic.paste(part, (2000 * (corner % 2), 1500 * (corner // 2)))
        pixels = np.asarray(mosaic, dtype=np.int16) + np.roll(grain, 101 * number, axis=1)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:03}.jpg", quality=87)


def make(source: Path, work: Path) -> None:
    sources = list(originals(source))
    if not sources:
        raise SystemExit(f"no photos in {source}")
    if not (work / "photos/mid").exists():
        make_mid(sources, work / "photos/mid")
    if not (work / "photos/big").exists():
        make_big(sources, work / "photos/big")


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
