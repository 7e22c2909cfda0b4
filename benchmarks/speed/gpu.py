"""A GPU: what the tower could do, what the cores can feed it, and what `index` makes of both.

    python -m benchmarks.speed.gpu PHOTOS... [--output FILE.json] [--device cuda] [--photos 3072]
        [--parts index,decode,...]

PHOTOS are folders of photos or of tar files of photos; what they hold is repeated until there are
enough files. Measured are

- peak: a large matrix product in bfloat16;
- tower: pixels that lie on the device already, with every kernel launched from Python (`eager`)
  and with all of them in one CUDA graph (`graph`), as a share of that peak too;
- encoder: `encoder.images` from ordinary memory, in as many threads as it asks for, and in one;
- decode: `decode_photo` and preprocessing in threads and in processes;
- nvjpeg: JPEG decoded and resized by the GPU, and how far its vectors are from the usual ones;
- index: whole runs of `Library.index`, once the model is loaded.

Alternatives take turns; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.speed import measure, models, photos

Rates = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """How much is measured, and on what.

    Attributes:
        seconds: of one measurement of a tower, at least.
        side: of the square matrices whose product is called the peak.
        batch: images at a time in a tower.
    """

    device: str
    rounds: int
    seconds: float
    side: int
    batch: int

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.is_cuda:
            import torch

            torch.cuda.synchronize()

    def per_second(self, work: Callable[[], Any]) -> float:
        """How often `work` is done in a second, many of it being told at once."""
        work()
        self.wait()
        times = 1
        while True:
            started = time.perf_counter()
            for _ in range(times):
                work()
            self.wait()
            seconds = time.perf_counter() - started
            if seconds >= self.seconds:
                return times / seconds
            times = max(times + 1, int(times * 1.2 * self.seconds / max(seconds, 1e-6)))

    def in_turn(self, works: Mapping[str, Callable[[], float]]) -> Rates:
        """The median of each over the rounds."""
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(self.rounds):
            for name, work in works.items():
                found[name].append(work())
        return {name: round(median(values), 1) for name, values in found.items()}


def make_photos(sources: list[bytes], folder: Path, count: int) -> list[Path]:
    """`count` files, each another photo to clipsearch: what follows a JPEG's end is in its digest.

    They are decoded like the photos that they repeat, so nothing is spared by it.
    """
    folder.mkdir(parents=True)
    files = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        # Said with the folder's name, lest another folder's photos be the same ones.
        mark = f" {folder.name} {number}".encode()
        file.write_bytes(sources[number % len(sources)] + mark)
    return files


# The tower ---------------------------------------------------------------------------------------


def measure_peak(bench: Bench) -> float:
    """TFLOP/s of a product of square matrices in bfloat16, the best of the rounds."""
    import torch

    side = bench.side
    one, other = (
        torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2)
    )
    rates = [bench.per_second(lambda: one @ other) for _ in range(bench.rounds)]
    return 2 * side**3 * max(rates) / 1e12


def flops_per_image(module: Any, side: int, device: str) -> int:
    """Floating-point operations of one image: two for each multiplication with its addition."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros((1, side, side, 3), dtype=torch.uint8, device=device)
    # The counter passes over attention that is one operation.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
            torch.inference_mode(),
        ):
            module(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def graphed(module: Any, batch: Any) -> Callable[[], Any]:
    """The module over this batch as one CUDA graph, to be replayed."""
    import torch

    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            module(batch)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            graph.output = module(batch)  # kept: its memory is the graph's
    return graph.replay


def measure_tower(name: str | Path, precision: str, bench: Bench, peak: float) -> dict[str, Any]:
    """Images a second of pixels on the device, by size of batch, and as a share of the peak."""
    import torch

    from clipsearch.models import load_encoder
    from clipsearch.models.config import read_config
    from clipsearch.models.runtimes.torch_towers import image_module

    encoder = load_encoder(name, device=bench.device, precision=precision)
    config = read_config(encoder.folder)
    side = encoder.preprocess.size
    module: Any = image_module(config, precision).to(bench.device)
    module.to(memory_format=torch.channels_last)
    flops = flops_per_image(module, side, bench.device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (bench.batch, side, side, 3), dtype=torch.uint8,
                           generator=generator).to(bench.device)  # fmt: skip
    sizes = {bench.batch}
    if precision == "bf16":
        sizes |= {bench.batch // 4, bench.batch // 2}
    works: dict[str, Callable[[], Any]] = {}

    def eager(batch: Any) -> None:
        with torch.inference_mode():
            module(batch)

    for size in sorted(sizes):
        works[f"eager {size}"] = partial(eager, pixels[:size])
        if bench.is_cuda:
            works[f"graph {size}"] = graphed(module, pixels[:size].clone())
    rates = bench.in_turn(
        {
            words: partial(_images_per_second, bench, work, int(words.split()[1]))
            for words, work in works.items()
        }
    )
    best = max(rates.values())
    return {
        "model": Path(name).name,
        "precision": precision,
        "gflop_per_image": round(flops / 1e9, 3),
        "images_per_second": rates,
        "best": best,
        "share_of_peak": round(best * flops / 1e12 / peak, 4),
    }


def _images_per_second(bench: Bench, work: Callable[[], Any], size: int) -> float:
    return bench.per_second(work) * size


def measure_encoder(name: str | Path, bench: Bench, count: int) -> dict[str, Any]:
    """`encoder.images` from ordinary memory: with the threads that it asks for, and with one."""
    from clipsearch.models import load_encoder

    encoder = load_encoder(name, device=bench.device)
    runtime = encoder.runtime
    size = encoder.batch_size
    side = encoder.preprocess.size
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
    for _ in range(3 * encoder.batches_at_once):
        encoder.images(pixels)
    batches = max(2 * encoder.batches_at_once, count // size)

    def rate(threads: int) -> float:
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            for rows in pool.map(encoder.images, [pixels] * batches):
                assert len(rows) == size
            return batches * size / (time.perf_counter() - started)

    works = {f"{n} threads": partial(rate, n) for n in sorted({1, encoder.batches_at_once})}
    return {
        "model": Path(name).name,
        "runtime": runtime,
        "batch": size,
        "images_per_second": bench.in_turn(works),
    }


# The cores ---------------------------------------------------------------------------------------


def read_one(file: Path, preprocess: Any) -> int:
    """What a reader of `index` does with a file, but for asking the catalogue."""
    from clipsearch.photos.decode import decode_photo

    photo = decode_photo(file, side_px=preprocess.size, is_known=_never)
    assert photo.image is not None
    return len(preprocess.pixels(photo.image))


def _never(digest: bytes) -> bool:
    return False


def measure_decode(files: list[Path], preprocess: Any, bench: Bench) -> Rates:
    """Photos a second by threads, and by as many processes as there are cores."""
    cores = len(os.sched_getaffinity(0))
    read = partial(read_one, preprocess=preprocess)
    counts = [count for count in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64) if count < cores]
    works: dict[str, Callable[[], float]] = {}
    with contextlib.ExitStack() as stack:
        for count in [*counts, cores]:
            pool: Executor = stack.enter_context(ThreadPoolExecutor(count))
            works[f"{count} threads"] = partial(_decode_rate, pool, read, files[: 100 * count], 1)
        # Not forked: a process that has begun with CUDA must not be.
        context = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(cores, mp_context=context))
        list(pool.map(read, files[: 8 * cores]))
        works[f"{cores} processes"] = partial(_decode_rate, pool, read, files[: 100 * cores], 8)
        return bench.in_turn(works)


def _decode_rate(
    pool: Executor, read: Callable[[Path], int], files: list[Path], chunk: int
) -> float:
    started = time.perf_counter()
    for _ in pool.map(read, files, chunksize=chunk):
        pass
    return len(files) / (time.perf_counter() - started)


# nvJPEG ------------------------------------------------------------------------------------------


def measure_nvjpeg(files: list[Path], bench: Bench) -> dict[str, Any]:
    """JPEG decoded by the GPU, and made into pixels there as a reader of `index` has it done."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    from clipsearch.models import load_encoder
    from clipsearch.models.runtimes.gpu_jpeg import GpuJpegs
    from clipsearch.photos.decode import EncodedJpeg, decode_photo

    encoder = load_encoder("pocket", device=bench.device)
    preprocess = encoder.preprocess
    decoder = GpuJpegs(preprocess, device=bench.device)

    def encoded(file: Path) -> EncodedJpeg:
        left = decode_photo(file, side_px=preprocess.source_px, leaves=decoder.takes).encoded
        assert left is not None
        return left

    jpegs = [encoded(file) for file in files]
    contents = [torch.frombuffer(bytearray(one.data), dtype=torch.uint8) for one in jpegs]

    def rate(work: Callable[[Any], Any], items: list[Any], size: int) -> float:
        started = time.perf_counter()
        for at in range(0, len(items), size):
            work(items[at : at + size])
        bench.wait()
        return len(items) / (time.perf_counter() - started)

    ways: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "decoded": (partial(decode_jpeg, mode=ImageReadMode.RGB, device=bench.device), contents),
        "decoded and resized": (decoder.pixels, jpegs),
        "read, decoded and resized": (
            lambda group: decoder.pixels([encoded(file) for file in group]),
            files,
        ),
    }
    decoder.pixels(jpegs[:64])
    rates = bench.in_turn(
        {
            f"{words}, {size} at once": partial(rate, *way, size)
            for words, way in ways.items()
            for size in (16, 64)
        }
    )
    some = files[:64]
    usual = [decode_photo(file, side_px=preprocess.source_px).image for file in some]
    pixels = np.stack([preprocess.pixels(image) for image in usual if image is not None])
    theirs = np.stack([one for one in decoder.pixels(jpegs[:64]) if one is not None])
    cosines = (encoder.images(pixels) * encoder.images(theirs)).sum(axis=1)
    levels = np.abs(pixels.astype(int) - theirs.astype(int)).mean(axis=(1, 2, 3))
    return {
        "images_per_second": rates,
        "photos_compared": len(some),
        "mean_cosine": round(float(cosines.mean()), 5),
        "worst_cosine": round(float(cosines.min()), 5),
        "mean_difference_of_levels": round(float(levels.mean()), 3),
        "worst_difference_of_levels": round(float(levels.max()), 3),
    }


# Whole runs --------------------------------------------------------------------------------------


# What keeps a run from reading in a quicker way, by that way's name.
WITHOUT = {"nvJPEG": "LEAST_FILES_FOR_GPU", "processes": "LEAST_FILES"}


@contextlib.contextmanager
def without(way: str | None) -> Iterator[None]:
    """No run is long enough for this way of reading meanwhile."""
    from clipsearch.library import indexing

    if way is None:
        yield
        return
    usual = getattr(indexing, WITHOUT[way])
    setattr(indexing, WITHOUT[way], sys.maxsize)
    try:
        yield
    finally:
        setattr(indexing, WITHOUT[way], usual)


def measure_index(
    names: Iterable[str | Path], sources: list[bytes], work: Path, bench: Bench, count: int
) -> dict[str, Any]:
    """Photos a second of a run over `count` new photos by a library whose model is loaded.

    Without processes a fifth of them must do.
    """
    from clipsearch import Library

    warm = make_photos(sources, work / "warm", 64)[0].parent
    many = make_photos(sources, work / "many", count)
    few = make_photos(sources, work / "few", count // 5)

    seconds: dict[str, list[float]] = {}

    def rate(name: str | Path, files: list[Path], way: str | None) -> float:
        with (
            tempfile.TemporaryDirectory(dir=work) as folder,
            Library.open(Path(folder) / "library", device=bench.device) as library,
            without(way),
        ):
            library.index([warm], model=str(name))
            report = library.index([files[0].parent])
            if report.embedded != len(files):
                raise RuntimeError(f"{report.embedded} of {len(files)} were embedded: {report}")
            what = Path(name).name + (f", without {way}" if way else "")
            seconds.setdefault(what, []).append(round(report.seconds, 2))
            print(f"{what}, {len(files)} photos: {report.seconds:.2f} s", flush=True)
            return len(files) / report.seconds

    works = {Path(name).name: partial(rate, name, many, None) for name in names}
    works["pocket, without nvJPEG"] = partial(rate, "pocket", many, "nvJPEG")
    works["pocket, without processes"] = partial(rate, "pocket", few, "processes")
    rates = replace(bench, rounds=min(bench.rounds, 2)).in_turn(works)
    photos = {name: len(few if "processes" in name else many) for name in works}
    return {"photos": photos, "seconds": seconds, "photos_per_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="+", metavar="PHOTOS")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/speed-gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--photos", type=int, default=3072)
    parser.add_argument("--index-photos", type=int, default=30_720)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--parts",
        default="index,decode,peak,encoder,nvjpeg,tower",
        help="what is measured, in this order; tower needs peak before it",
    )
    options = parser.parse_args()
    bench = Bench(options.device, options.rounds, options.seconds, options.side, options.batch)
    parts = options.parts.split(",")
    sources = [photo for source in options.sources for photo in photos.originals(source)]
    if not sources:
        raise SystemExit("no photos there")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = make_photos(sources, work / "photos", options.photos)
        steps = stages(parts, sources, files, work, bench, options.index_photos, found)
        if unknown := set(parts) - steps.keys():
            raise SystemExit(f"no such parts: {', '.join(sorted(unknown))}")
        for step in parts:
            started = time.perf_counter()
            try:
                found[step] = steps[step]()
            except Exception as error:  # one part that this machine cannot do leaves the others
                traceback.print_exc()
                found[step] = {"failed": f"{type(error).__name__}: {error}"}
            seconds = time.perf_counter() - started
            print(f"{step} ({seconds:.1f} s): {found[step]}", flush=True)
            save(found, sources, options, bench)
    print(table(found))


def stages(
    parts: Iterable[str],
    sources: list[bytes],
    files: list[Path],
    work: Path,
    bench: Bench,
    index_photos: int,
    found: dict[str, Any],
) -> dict[str, Callable[[], Any]]:
    """The measurements by their names."""
    from clipsearch.models import load_encoder

    vit = work / models.NAME
    names: list[str | Path] = ["pocket", vit]
    if {"index", "encoder", "tower"}.intersection(parts):
        models.make_directory(vit)
    precisions = ("bf16", "fp16", "fp32") if bench.is_cuda else ("fp32",)

    def towers() -> list[dict[str, Any]]:
        return [
            measure_tower(name, precision, bench, found["peak"]["tflops"])
            for name in names
            for precision in precisions
        ]

    return {
        "decode": lambda: measure_decode(files, load_encoder("pocket").preprocess, bench),
        "peak": lambda: {"tflops": round(measure_peak(bench), 3)},
        "encoder": lambda: [measure_encoder(name, bench, len(files)) for name in names],
        "index": lambda: measure_index(names, sources, work, bench, index_photos),
        "nvjpeg": lambda: measure_nvjpeg(files[:1024], bench),
        "tower": towers,
    }


def save(
    found: dict[str, Any], sources: list[bytes], options: argparse.Namespace, bench: Bench
) -> None:
    import torch

    machine = measure.machine()
    if bench.is_cuda:
        device = torch.cuda.get_device_properties(0)
        machine |= {"gpu": device.name, "gpu_memory_gib": round(device.total_memory / 2**30)}
    names = ("clipsearch", "numpy", "pillow", "torch", "torchvision", "timm", "open_clip_torch")
    measure.write(
        "speed-gpu",
        {
            "claim": "photos a second on a GPU, as shares of what tower and cores can do",
            "command": "python -m benchmarks.speed.gpu PHOTOS",
            "machine": machine,
            "versions": measure.versions(sys.executable, names),
            "settings": {key: value for key, value in vars(options).items()
                         if isinstance(value, (int, float))},
            "photos": {
                "count": options.photos,
                "different": len(sources),
                "mean_bytes": sum(map(len, sources)) // len(sources),
            },
            **found,
        },
        output=options.output,
    )  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """What was found, a line each."""
    tower, encoder = found.get("tower"), found.get("encoder")
    lines = [
        f"tower {one['model']} {one['precision']}: {one['best']:,.0f} images/s = "
        f"{one['share_of_peak']:.3f} of peak; {one['images_per_second']}"
        for one in (tower if isinstance(tower, list) else [])
    ]
    lines += [
        f"encoder {one['model']}, batch {one['batch']}: {one['images_per_second']}"
        for one in (encoder if isinstance(encoder, list) else [])
    ]
    lines += [f"{part}: {found.get(part)}" for part in ("peak", "decode", "nvjpeg", "index")]
    for name, rate in (found.get("index") or {}).get("photos_per_second", {}).items():
        shares = shares_of_index(found, name)
        words = ", ".join(f"{share:.2f} of {what}" for what, share in shares.items())
        lines.append(f"index {name}: {rate:,.0f} photos/s = {words}")
    return "\n".join(lines)


def shares_of_index(found: Mapping[str, Any], name: str) -> dict[str, float]:
    """What part of the encoder's and of the cores' rate a whole run reaches."""
    rate = found["index"]["photos_per_second"][name]
    shares = {}
    encoder = found.get("encoder")
    for one in encoder if isinstance(encoder, list) else []:
        if one["model"] == name.partition(",")[0]:
            shares["the encoder's rate"] = rate / max(one["images_per_second"].values())
    for kind in ("threads", "processes"):
        rates = [
            each for words, each in found.get("decode", {}).items() if words.endswith(f" {kind}")
        ]
        if rates:
            shares[f"decoding in {kind}"] = rate / max(rates)
    return shares


if __name__ == "__main__":
    main()
