"""Train `pocket`'s whole image tower on, on a GPU: `python -m benchmarks.pocket.whole`.

It begins with a released `pocket` and what `pack.py` wrote. Stages, each kept under --work and
skipped when it is there:

    committee   three image towers (the released one, and Lite1 and Lite0 from ImageNet) and the
                sentence encoder, every layer of them, learn from photos with captions and labels
    image       the released image tower learns what all of them see, in views never seen twice

Its weights come out in half precision, under open_clip's names; `retell.py` lets the text tower
learn on beside it. Only the dev photos are looked at for figures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.pocket.beginnings import Beginnings
from benchmarks.pocket.committee import Committee, agree, make_committee, measure
from benchmarks.pocket.export import save_half
from benchmarks.pocket.files import Log, whole
from benchmarks.pocket.material import Material
from benchmarks.pocket.settings import LITTLE_WHOLE, Settings, WholePlan
from benchmarks.pocket.towers import ImageTower, Optimizer, embed_tokens, say, see, settle_norms
from benchmarks.pocket.views import Looks, as_they_are, blended, views

IMAGE = "image.safetensors"


def make_image_tower(
    start: Beginnings,
    material: Material,
    committee: Committee,
    plan: WholePlan,
    log: Log,
    work: Path,
) -> ImageTower:
    """The released tower, told by the committee; from its file in `work` where there is one."""
    torch.manual_seed(plan.seed + 1)
    tower = start.released_image_tower(0.1)
    path = work / "image.pt"
    if not path.exists():
        _train_image_tower(tower, start, material, committee, plan, log)
        with whole(path) as draft:
            torch.save(tower.state_dict(), draft)
    tower.load_state_dict(torch.load(path))
    return tower.eval().requires_grad_(False)


def _train_image_tower(
    tower: ImageTower,
    start: Beginnings,
    material: Material,
    committee: Committee,
    plan: WholePlan,
    log: Log,
) -> None:
    kinds = ("captions", "labels", "dev")
    captions, names, dev = (
        say(committee.sentences, material.sentences(kind, "minilm")) for kind in kinds
    )
    dev = dev[:, 0]
    members = [*committee.towers, start.image_tower]
    agreed = agree([see(member, material.dev) for member in members], plan.shares)
    measure(log, "all agreed", agreed, dev, material)
    tower.begin()
    optimizer = Optimizer(
        [
            {"params": tower.trainable(), "lr": plan.image_rate},
            {"params": list(tower.map.parameters()), "lr": 2 * plan.image_rate},
        ],
        plan.image_steps,
        seconds=plan.image_seconds,
    )
    while optimizer.done < 1:
        photos, own = material.captions_of(plan.told)
        others = material.any_captions(4 * plan.told)
        named = material.named(plan.named)
        with torch.no_grad():
            both = torch.cat([material.captioned[photos], material.labelled[named]])
            two = blended(views(material.anyone(plan.mixed), Looks()))
            pixels = torch.cat([views(both, Looks()), two])
            agreed = agree([member(pixels) for member in members], plan.shares)
        images = tower(pixels)
        said = captions[own, material.ways(len(own), captions.shape[1])]
        right = material.right(photos, own, others, captions[:, 0])
        way = int(torch.randint(names.shape[1], ()))
        parts = (said, captions[others, 0], names[:, way])
        known = images[: len(both)]
        scale = torch.tensor(committee.scale).to(known)
        pieces = material.lesson(known, parts, right, named, scale)
        distance = 1 - (images * agreed).sum(1).mean()
        (20 * distance + sum(pieces)).backward()
        optimizer.step()
        if optimizer.due(0.25):
            line = " ".join(f"{float(p):.2f}" for p in pieces)
            log(f"image: step {optimizer.taken}: {line} distance {float(distance):.4f}")
            optimizer.average.swap()
            measure(log, "image", see(tower.eval(), material.dev), dev, material)
            optimizer.average.swap()
            tower.begin()
    optimizer.average.swap()


def write_image(tower: ImageTower, path: Path) -> None:
    """In half precision, under open_clip's names."""
    state: dict[str, Tensor] = {f"visual.trunk.{k}": v for k, v in tower.trunk.state_dict().items()}
    state["visual.head.proj.weight"] = functional.pad(tower.map.weight, (0, 0, 0, 1))
    state["visual.head.proj.bias"] = functional.pad(tower.map.bias, (0, 1))
    save_half(state, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="a released pocket's directory")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearsal", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--plan", type=json.loads, default={}, help="JSON of what to change in it")
    chosen = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    log = Log(chosen.work)
    plan = replace(LITTLE_WHOLE if chosen.rehearsal else WholePlan(), **chosen.plan)
    log(f"plan: {asdict(plan)}")
    settings = Settings()
    start = Beginnings(chosen.pack, chosen.start, settings, chosen.device)
    material = Material(chosen.pack, settings.side_px, plan, chosen.device)
    log(f"{len(material.captioned)} + {len(material.labelled)} photos on the {chosen.device}")
    tokens = material.sentences("dev", "clip")[:, 0]
    released = say(lambda t: embed_tokens(start.text_tower, t), tokens)
    measure(log, "released", see(start.image_tower, material.dev), released, material)
    committee = make_committee(start, material, plan, log, chosen.work)
    image = make_image_tower(start, material, committee, plan, log, chosen.work)
    some = material.captioned[:: max(1, len(material.captioned) // 2048)]
    settle_norms(image.trunk, (as_they_are(part) for part in some.split(128)))
    with whole(chosen.work / IMAGE) as draft:
        write_image(image, draft)
    measure(log, "image, norms settled", see(image, material.dev), released, material)
    log("written")


if __name__ == "__main__":
    main()
