"""benchmarks/README.md and the charts, from the raw results alone.

    python -m benchmarks.report

A figure is the median of its runs; a ratio is the median of the ratios round by round, since the
programs of one round ran one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = ("peer", "second_peer")
RESULTS, CHARTS = HERE / "results", HERE / "charts"
Runs = list[dict[str, Any]]


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def of(runs: Runs, name: str, **where: Any) -> Runs:
    return [
        run
        for run in runs
        if run["name"] == name and all(run[key] == value for key, value in where.items())
    ]


def names(runs: Runs) -> list[str]:
    return list(dict.fromkeys(run["name"] for run in runs))


def ratio(theirs: Runs, ours: Runs, figure: str = "wall_s") -> float:
    """How many times more the others take, the median of the rounds."""
    mine = {run["round"]: run[figure] for run in ours}
    return median(run[figure] / mine[run["round"]] for run in theirs if run["round"] in mine)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {each}".removeprefix("python ") for name, each in versions.items())


def where(result: dict[str, Any]) -> str:
    machine, version = result["machine"], result["versions"]
    words = [
        f"{result['date']}; {machine['cores']} cores of {machine['processor']}"
        f" ({', '.join(machine['instructions'])}), {machine['memory_gib']} GiB,"
        f" {machine['system']}",
        "Python " + _versions(version),
        *(f"peer: Python {_versions(result[key])}" for key in PEERS if key in result),
    ]
    shared = f" Note: {result['note']}." if "note" in result else ""
    if result.get("load_at_end", 0) > 2 * machine["cores"]:
        shared += (
            f" Other work shared the cores (load average {result['load_at_end']:.0f}), so seconds"
            " are pessimistic on both sides and ratios less certain; processor seconds hold."
        )
    return "; ".join(words) + f". Command: `{result['command']}`.{shared}\n"


def indexing(result: dict[str, Any], title: str = "Indexing") -> str:
    runs: Runs = result["runs"]
    parts = [
        f"## {title}\n",
        "Whole runs over an empty library, start-up counted, each with one text query at its end"
        " (a run of rclip always answers one). Everybody's ViT-B-32-256 has the same random"
        " weights. The loop with open_clip is what one writes by hand; it and clip-retrieval write"
        " an array, answer no query, and run in the first round alone.\n",
    ]
    for kind, title in (("mid", "about 500 px"), ("big", "12 megapixels")):
        some = [run for run in runs if run["photos"] == kind]
        if not some:
            continue
        count = result["photos"][kind]["count"]
        peer = next(name for name in names(some) if name.startswith("rclip"))
        theirs = of(some, peer)
        rows = []
        for name in names(some):
            mine, ours = of(some, name), name.startswith("clipsearch")
            rows.append(
                [
                    name,
                    f"{median(run['wall_s'] for run in mine):.1f}",
                    f"{count / median(run['wall_s'] for run in mine):.0f}",
                    f"{median(run['cpu_s'] for run in mine):.1f}",
                    f"{max(run['peak_mb'] for run in mine):.0f}",
                    f"{ratio(theirs, mine):.1f}x" if ours else "",
                    f"{ratio(theirs, mine, 'peak_mb'):.1f}x less" if ours else "",
                ]
            )
        size = result["photos"][kind]["mean_bytes"] / 1000
        parts.append(f"{count:,} photos of {title} ({size:,.0f} KB on average):\n")
        parts.append(
            table(
                [
                    "program",
                    "seconds",
                    "photos/s",
                    "processor s",
                    "peak MB",
                    "speed against rclip",
                    "memory",
                ],
                rows,
            )
        )
    first = ", ".join(
        f"{run['name'].removeprefix('models/')} {run['wall_s']:.1f} s and {run['peak_mb']:.0f} MB"
        for run in result["first"]
    )
    parts.append(
        "The first run of a model on a machine also converts its tower, where it is not pocket's,"
        " and tries a faster arithmetic beside float32 on the first 200 photos: "
        f"{first} (the smaller photos).\n"
    )
    verdicts = [
        [
            *key.split(", "),
            f"{one['mean_cosine']:.5f}",
            f"{one['worst_cosine']:.5f}",
            f"{one['speedup']:.2f}",
        ]
        for key, one in (result.get("verdicts") or {}).items()
    ]
    if verdicts:
        parts.append("What those trials found:\n")
        parts.append(
            table(["model", "arithmetic", "mean cosine", "worst", "times faster"], verdicts)
        )
    return "\n".join([*parts, where(result)])


def fidelity(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{name} ({one['computed_in']})" if name == "auto" else name,
            f"{one['mean_cosine_of_200']:.5f}",
            f"{one['worst_cosine_of_200']:.5f}",
            f"{one['worst_cosine']:.5f}",
            *(f"{value:.2f}" for value in one["text_to_photo_recall"].values()),
        ]
        for name, one in result["precisions"].items()
    ]
    heads = [
        "precision",
        "mean cosine, 200 photos",
        "worst of 200",
        "worst of all",
        "R@1",
        "R@5",
        "R@10",
    ]
    return "\n".join(
        [
            "## What the faster arithmetic costs\n",
            f"{result['model']} with its trained weights on {result['photos']:,} photos that it was"
            f" not trained on, {result['captions']:,} captions:\n",
            table(heads, rows),
            "`auto` answers in fp32 while its trial on the first 200 photos runs.\n",
            where(result),
        ]
    )


def queries(result: dict[str, Any]) -> str:
    runs: Runs = result["runs"]
    rows = []
    for size in sorted({run["photos"] for run in runs}):
        some = [run for run in runs if run["photos"] == size]
        peer = next(name for name in names(some) if name.startswith("rclip"))
        for name in names(some):
            mine = of(some, name)
            rows.append(
                [
                    f"{size:,}",
                    name,
                    f"{median(run['wall_s'] for run in mine):.3f}",
                    " to ".join(f"{end(run['wall_s'] for run in mine):.3f}" for end in (min, max)),
                    f"{max(run['peak_mb'] for run in mine):.0f}",
                    "" if name == peer else f"{ratio(of(some, peer), mine):.1f}x",
                ]
            )
    return "\n".join(
        [
            "## Cold queries\n",
            "One new text from start to exit, ten hits printed; the page cache is warm.\n",
            table(
                ["photos", "program", "seconds", "range", "peak MB", "speed against rclip"], rows
            ),
            "Peak memory counts the pages of mapped files, which the system may take back.\n",
            where(result),
        ]
    )


def warm(result: dict[str, Any]) -> str:
    runs: Runs = result["runs"]
    rows = []
    for size in sorted({run["photos"] for run in runs}):
        for name in names(runs):
            mine = of(runs, name, photos=size)
            figures = ("p50_ms", "p95_ms", "first_ms", "anonymous_mb")
            values = {key: median(run[key] for run in mine) for key in figures}
            rows.append(
                [f"{size:,}", name, f"{values['p50_ms']:.1f}", f"{values['p95_ms']:.1f}",
                 f"{values['first_ms']:.0f}", f"{values['anonymous_mb']:.0f}"]
            )  # fmt: skip
    heads = ["photos", "program", "p50 ms", "p95 ms", "opening and first query ms", "anonymous MB"]
    return "\n".join(
        [
            "## Warm queries\n",
            f"{result['texts']} new texts to an open library, one at a time, ten hits each.\n",
            table(heads, rows),
            where(result),
        ]
    )


_ASKED = {
    "clustered": "200 text-like queries",
    "hard": "without clusters, and 200 queries near none of them",
}


def search(result: dict[str, Any]) -> str:
    built = result["build"][0]
    asked = {key: median(one[key] for one in result["ask"]) for key in result["ask"][0]}
    rows = [
        ["building", f"{built['build_s']:.0f} s, {built['build_peak_mb'] / 1000:.1f} GB at most"],
        ["lists, of which looked at", f"{built['nlist']}, {built['nprobe']}"],
        ["file", f"{built['file_mb']:,.0f} MB"],
        ["opening", f"{asked['open_ms']:.1f} ms"],
        ["recall@10 against comparing with all", f"{asked['recall_at_10']:.4f}"],
        ["one query, p50 and p95", f"{asked['p50_ms']:.1f} and {asked['p95_ms']:.1f} ms"],
        ["of that the index alone, p50", f"{asked['index_only_p50_ms']:.1f} ms"],
        ["200 queries at once, each", f"{asked['batch_of_200_ms_each']:.1f} ms"],
        ["anonymous memory of the process", f"{asked['anonymous_mb']:.0f} MB"],
    ]
    vectors = result["vectors"]
    return "\n".join(
        [
            f"## Search alone, {vectors['kind']} vectors\n",
            f"{vectors['count']:,} vectors of {vectors['dim']} dimensions,"
            f" {_ASKED[vectors['kind']]} that the index was not tuned on, one at a time; exact"
            " scores and order included.\n",
            table(["what", "measured"], rows),
            where(result),
        ]
    )


def rescan(result: dict[str, Any]) -> str:
    runs: Runs = result["runs"]
    rows = []
    for name in names(runs):
        mine = of(runs, name)
        theirs = of(runs, "rclip 4.0.8, 10 new in 10,000")
        rows.append(
            [
                name,
                f"{median(run['wall_s'] for run in mine):.2f}",
                f"{max(run['peak_mb'] for run in mine):.0f}",
                f"{ratio(theirs, mine):.1f}x" if name.startswith("clipsearch, 10 ") else "",
            ]
        )
    return "\n".join(
        [
            "## Looking again\n",
            table(["run", "seconds", "peak MB", "speed against rclip"], rows),
            where(result),
        ]
    )


def gpu(result: dict[str, Any]) -> str:
    from benchmarks.speed.gpu import shares_of_index

    parts = [
        f"## On a GPU ({result['machine']['gpu']})\n",
        f"The tower alone, on pixels that lie on the device; the peak is a product of large"
        f" matrices in bfloat16, {result['peak']['tflops']:,.0f} TFLOP/s:\n",
        table(
            ["model", "precision", "GFLOP an image", "images/s", "share of the peak"],
            [
                [
                    one["model"],
                    one["precision"],
                    f"{one['gflop_per_image']:.2f}",
                    f"{one['best']:,.0f}",
                    f"{100 * one['share_of_peak']:.1f} %",
                ]
                for one in result["tower"]
            ],
        ),
    ]
    whole = result["index"].get("photos_per_second", {})
    about = (
        f"{result['photos']['count']:,} photos of {result['photos']['mean_bytes'] / 1000:.0f} KB"
    )
    if whole:
        parts.append(
            f"Whole runs of `index` over {about}, the model loaded, and what limits them:\n"
        )
    else:
        parts.append(f"What limits `index`, over {about}:\n")
    rows = [
        [f"`index`, {name}", f"{rate:,.0f}"]
        + [f"{100 * share:.0f} %" for share in shares_of_index(result, name).values()]
        for name, rate in whole.items()
    ]
    rows += [
        [f"the encoder, {one['model']}, {words}", f"{rate:,.0f}", "", "", ""]
        for one in result["encoder"]
        for words, rate in one["images_per_second"].items()
    ]
    rows += [
        [f"decoding and preprocessing in {words}", f"{rate:,.0f}", "", "", ""]
        for words, rate in result["decode"].items()
    ]
    nvjpeg = result["nvjpeg"]
    rows += [
        [f"nvJPEG, {words}", f"{rate:,.0f}", "", "", ""]
        for words, rate in nvjpeg.get("images_per_second", {}).items()
    ]
    heads = ["what", "photos/s", "of the encoder", "of the threads", "of the processes"]
    parts.append(table(heads, rows))
    if "worst_cosine" in nvjpeg:
        parts.append(
            f"Vectors of photos that nvJPEG decoded and the GPU resized, beside the usual ones:"
            f" cosine {nvjpeg['mean_cosine']:.4f} on average, {nvjpeg['worst_cosine']:.4f} at"
            f" worst ({nvjpeg['photos_compared']} photos).\n"
        )
    return "\n".join([*parts, where(result)])


def gpu_index(result: dict[str, Any]) -> str:
    found, nvjpeg = result["index"], result["nvjpeg"]
    rows = [
        [
            name,
            f"{found['photos'][name]:,}",
            ", ".join(f"{one:.1f}" for one in seconds),
            f"{found['photos_per_second'][name]:,.0f}",
        ]
        for name, seconds in found["seconds"].items()
    ]
    rates = (f"{words} {rate:,.0f}" for words, rate in nvjpeg["images_per_second"].items())
    return "\n".join(
        [
            f"## Whole runs on a GPU ({result['machine']['gpu']})\n",
            f"`index` over new photos of {result['photos']['mean_bytes'] / 1000:.0f} KB, the model"
            " loaded; the start of processes, the commits and the index for search are counted:\n",
            table(["model", "photos", "seconds of each run", "photos/s"], rows),
            f"nvJPEG in one process, photos/s: {'; '.join(rates)}. Its vectors beside the usual"
            f" ones: cosine {nvjpeg['mean_cosine']:.5f} on average, {nvjpeg['worst_cosine']:.5f} at"
            f" worst ({nvjpeg['photos_compared']} photos).\n",
            where(result),
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "speed-indexing": indexing,
    "speed-indexing-older": partial(indexing, title="Indexing on older cores, without VNNI"),
    "speed-fidelity": fidelity,
    "speed-queries": queries,
    "speed-warm": warm,
    "speed-search": search,
    "speed-search-hard": search,
    "speed-rescan": rescan,
    "speed-gpu": gpu,
    "speed-gpu-index": gpu_index,
}


def draw_charts() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    CHARTS.mkdir(exist_ok=True)
    ours, same, theirs = "#1f6f8b", "#7fb3c4", "#b0b0b0"
    colours = {
        "clipsearch, pocket": ours,
        "clipsearch, ViT-B-32-256": same,
        "clipsearch, ViT-B-32 at 224 px": same,
    }
    if result := load("speed-indexing"):
        figure, axes = pyplot.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
        for axis, kind, title in zip(
            axes, ("mid", "big"), ("500 px", "12 megapixels"), strict=True
        ):
            some = [
                run for run in result["runs"] if run["photos"] == kind and "fp32" not in run["name"]
            ]
            shown = names(some)[::-1]
            count = result["photos"][kind]["count"]
            rates = [count / median(run["wall_s"] for run in of(some, name)) for name in shown]
            bars = axis.barh(shown, rates, color=[colours.get(name, theirs) for name in shown])
            axis.bar_label(bars, fmt="%.0f", padding=3)
            axis.set_title(f"photos/s, {title}", loc="left")
            axis.set_xticks([])
            axis.spines.bottom.set_visible(False)
            axis.margins(x=0.12)
        axes[1].set_yticklabels([])
        figure.savefig(CHARTS / "indexing.png", dpi=130)
        pyplot.close(figure)
    if result := load("speed-queries"):
        figure, axis = pyplot.subplots(figsize=(6.5, 3.4), layout="constrained")
        for name in names(result["runs"]):
            sizes = sorted({run["photos"] for run in of(result["runs"], name)})
            seconds = [
                median(run["wall_s"] for run in of(result["runs"], name, photos=size))
                for size in sizes
            ]
            axis.plot(sizes, seconds, "o-", color=colours.get(name, theirs), label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
        axis.set_xlabel("photos in the library")
        axis.set_title("seconds from `query` to hits, cold", loc="left")
        axis.legend(frameon=False)
        figure.savefig(CHARTS / "queries.png", dpi=130)
        pyplot.close(figure)


def main() -> None:
    parts = [
        "# Benchmarks\n",
        "Made by `python -m benchmarks.report` from the raw runs in `results/`;"
        " `benchmarks/run.sh PHOTOS` repeats them. Figures are medians, ratios are medians of the"
        " ratios round by round (programs take turns). Trust ratios: machines differ, and so do"
        " their days.\n",
        *(
            f"![{title}](charts/{name})\n"
            for title, name in (
                ("Photos indexed a second", "indexing.png"),
                ("Seconds of a cold query", "queries.png"),
            )
            if (CHARTS / name).exists()
        ),
    ]
    for name, section in SECTIONS.items():
        if result := load(name):
            parts.append(section(result))
    others = sorted(
        path.name for path in RESULTS.glob("*.json") if not path.name.startswith("speed-")
    )
    if others:
        parts.append("## Other results\n\n" + "".join(f"- `results/{name}`\n" for name in others))
    (HERE / "README.md").write_text("\n".join(parts), encoding="utf-8")
    draw_charts()


if __name__ == "__main__":
    main()
