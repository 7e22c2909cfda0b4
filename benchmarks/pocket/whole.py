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
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pocket.export import WEIGHTS, save_half
from benchmarks.pocket.heads import FEATURES, TextHead, in_words, likeness_loss, unit
from benchmarks.pocket.pack import KINDS, Pictures, Tokens, read_pictures, read_tokens
from benchmarks.pocket.photos import open_rgb, squash
from benchmarks.pocket.settings import Settings
from benchmarks.pocket.student import TextTower
from benchmarks.pocket.towers import (
    Average,
    ImageTower,
    Optimizer,
    SentenceTower,
    embed_tokens,
    settle_norms,
)
from benchmarks.pocket.views import Looks, as_they_are, blended, views
from clipsearch.models.torchvision_shim import import_torchvision
from clipsearch.train.loss import LOGIT_SCALE_CAP, rows_loss
from clipsearch.train.metrics import retrieval_metrics

IMAGE = "image.safetensors"
_SAME_MEANING = 0.95  # sentences this near are no negatives of each other
_WITHOUT_GRADIENT = 512  # rows at once


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained for how long; chosen on the dev photos.

    Attributes:
        committee_steps, image_steps: of AdamW, each with a warm-up and a cosine; fewer where the
            seconds beside them are over before.
        captioned, labelled: photos in a batch of the committee; `others` captions contend too.
        anchor: weight of staying near what the released towers say.
        shares: of Lite2, Lite1, Lite0 and the released tower in what the image tower is told.
        told, named, mixed: photos with captions, with labels and of two photos in one, in a batch
            of the image tower.
    """

    seed: int = 21
    committee_steps: int = 125
    committee_seconds: float = math.inf
    captioned: int = 448
    labelled: int = 192
    others: int = 512
    anchor: float = 3.0
    likeness: float = 1.0
    trunk_rate: float = 2e-4
    head_rate: float = 1e-3
    encoder_rate: float = 4e-5
    shares: tuple[float, ...] = (0.35, 0.25, 0.15, 0.25)
    image_steps: int = 245
    image_seconds: float = math.inf
    told: int = 256
    named: int = 128
    mixed: int = 384
    image_rate: float = 4e-4
    most_world: int = 10**6


TINY = Plan(
    committee_steps=3, captioned=6, labelled=4, others=5, image_steps=3, told=4, named=4, mixed=4,
    most_world=64,
)  # fmt: skip


class Run:
    """One training run: what it learns from, on one device, and its folder."""

    def __init__(self, pack: Path, start: Path, work: Path, plan: Plan, device: str) -> None:
        self.plan, self.work, self.device = plan, work, device
        self.settings = Settings()
        self._began = time.perf_counter()
        self._released = load_file(start / WEIGHTS)
        self._pack = pack
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(plan.seed)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._began

    def say(self, line: str) -> None:
        line = f"[{self.elapsed:6.1f} s] {line}"
        print(line, flush=True)
        with (self.work / "log.txt").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    # What there is to learn from.

    def load(self) -> None:
        """Pictures and tokens onto the device."""
        kinds = {kind: read_pictures(self._pack, kind) for kind in KINDS}
        flickr, scenes, labelled = (kinds[k] for k in ("flickr", "scenes", "labelled"))
        self.captioned = torch.cat([self._pixels(flickr), self._pixels(scenes)])
        self.owner = torch.from_numpy(
            np.concatenate([flickr.owner, len(flickr.jpegs) + scenes.owner])
        ).to(self.device)
        self.labelled = self._pixels(labelled)
        self.label, self.source = (
            torch.from_numpy(each).to(self.device) for each in (labelled.label, labelled.source)
        )
        self.dev, self.dev_owner = self._pixels(kinds["dev"]), kinds["dev"].owner
        self.tokens = read_tokens(self._pack)
        # Collections of a few hundred photos are met as often as their square root says.
        share = torch.bincount(self.source).float().rsqrt()[self.source]
        self._label_chances = share / share.sum()
        first = torch.searchsorted(self.owner, torch.arange(len(self.captioned) + 1).to(self.owner))
        self._first_caption = first
        self.say(f"{len(self.captioned)} + {len(self.labelled)} photos on the {self.device}")

    def _pixels(self, pictures: Pictures) -> Tensor:
        side = self.settings.side_px

        def read(jpeg: bytes) -> np.ndarray:
            return np.asarray(squash(open_rgb(jpeg), side)).transpose(2, 0, 1)

        with ThreadPoolExecutor(16) as pool:
            return torch.from_numpy(np.stack(list(pool.map(read, pictures.jpegs)))).to(self.device)

    def sentences(self, kind: str, which: str) -> Tensor:
        """(G, V, L) int32 tokens on the device, `which` being clip or minilm."""
        tokens: Tokens = self.tokens[kind]
        most = self.plan.most_world if kind in ("world", "imagenet") else None
        return torch.from_numpy(getattr(tokens, which)[:most].astype(np.int32)).to(self.device)

    # The released towers.

    def released_image_tower(self, dropout: float = 0.3) -> ImageTower:
        dim = self.settings.dim - 1
        tower = ImageTower(self.settings.lite, dim, dropout)
        state = _under(self._released, "visual.trunk.")
        tower.trunk.load_state_dict(state)
        with torch.no_grad():
            tower.map.weight.copy_(self._released["visual.head.proj.weight"][:dim].float())
            tower.map.bias.copy_(self._released["visual.head.proj.bias"][:dim].float())
        return self._placed(tower)

    def _placed(self, tower: ImageTower) -> ImageTower:
        tower.layout = self.layout
        return tower.to(self.device).eval().to(memory_format=self.layout)

    @cached_property
    def layout(self) -> torch.memory_format:
        """The order of a tower's activations in which it is trained faster here."""
        layouts = (torch.channels_last, torch.contiguous_format)
        if self.device == "cpu":
            return layouts[0]
        seconds = {layout: self._seconds_of_a_step(layout) for layout in layouts}
        self.say(f"a step of 96 photos: {seconds}")
        return min(layouts, key=lambda layout: seconds[layout])

    def _seconds_of_a_step(self, layout: torch.memory_format) -> float:
        tower = ImageTower(self.settings.lite, 8, 0.0).to(self.device).to(memory_format=layout)
        tower.layout = layout
        tower.begin()
        pixels = torch.randn(96, 3, tower.side_px, tower.side_px, device=self.device)
        for step in range(6):
            if step == 2:  # the first ones load kernels
                torch.cuda.synchronize()
                began = time.perf_counter()
            tower(pixels).sum().backward()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / 4

    @cached_property
    def anchor_image(self) -> ImageTower:
        return self.released_image_tower().requires_grad_(False)

    @cached_property
    def anchor_text(self) -> TextTower:
        tower = TextTower(self.settings, self._released["token_embedding.weight"].float())
        tower.load_open_clip({k: v.float() for k, v in self._released.items()})
        return tower.to(self.device).requires_grad_(False)

    @torch.no_grad()
    def seen(self, tower: Callable[[Tensor], Tensor], photos: Tensor) -> Tensor:
        """(N, D - 1): photos as they are, through a tower."""
        parts = photos.split(_WITHOUT_GRADIENT)
        return torch.cat([tower(as_they_are(part)) for part in parts])

    @torch.no_grad()
    def said(self, tower: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """(..., L) tokens -> (..., D) rows of a text tower."""
        flat = tokens.reshape(-1, tokens.shape[-1])
        order = (flat > 0).sum(1).argsort(stable=True)
        rows = torch.cat([tower(flat[part]) for part in order.split(4096)])
        back = torch.empty_like(rows)
        back[order] = rows
        return back.view(*tokens.shape[:-1], -1)

    def directions(self, tokens: Tensor) -> Tensor:
        """(..., D - 1) unit rows: where the released text tower puts sentences, not how far."""
        return unit(self.said(lambda t: embed_tokens(self.anchor_text, t), tokens)[..., :-1])

    def measure(self, name: str, images: Tensor, texts: Tensor) -> None:
        """Recall on dev."""
        images = functional.pad(images, (0, texts.shape[-1] - images.shape[-1]))
        found = retrieval_metrics(images.cpu().numpy(), texts.cpu().numpy(), self.dev_owner)
        self.say(f"{name}: dev {in_words(found)}")

    # Stage one.

    def sentence_tower(self) -> SentenceTower:
        """The sentence encoder, with a head that says what the released text tower says."""
        import_torchvision()
        from transformers import BertConfig, BertModel

        encoder = BertModel(
            BertConfig(
                vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                intermediate_size=1536,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        state = {k: v.float() for k, v in load_file(self._pack / "minilm.safetensors").items()}
        encoder.load_state_dict(state, strict=False)
        encoder.to(self.device).eval()
        bare = SentenceTower(encoder, TextHead(torch.zeros(384), 1, 1))
        vectors, meant = [], []
        for kind in ("captions", "labels", "imagenet", "world"):
            tokens = self.sentences(kind, "minilm")
            vectors.append(self.said(bare.encode, tokens).flatten(0, -2))
            meant.append(self.directions(self.sentences(kind, "clip")).flatten(0, -2))
        inputs, wanted = torch.cat(vectors), torch.cat(meant)
        head = TextHead(inputs.mean(0).cpu(), self.settings.dim - 1, 1024).to(self.device)
        steps = 1200 if self.device != "cpu" else 3
        optimizer = Optimizer([{"params": list(head.parameters()), "lr": 2e-3}], steps)
        for _ in range(steps):
            rows = torch.randint(len(inputs), (4096,), device=self.device)
            loss = 1 - (unit(head(inputs[rows])) * wanted[rows]).sum(1).mean()
            loss.backward()
            optimizer.step()
        self.say(f"sentence head: cosine to the released text tower {1 - loss.item():.3f}")
        return SentenceTower(encoder, head.eval())

    def fresh_tower(self, lite: int) -> ImageTower:
        """From ImageNet's weights; its map says what the released tower says (ridge regression)."""
        tower = ImageTower(lite, self.settings.dim - 1, 0.3)
        state = {k: v.float() for k, v in load_file(self._pack / f"lite{lite}.safetensors").items()}
        tower.trunk.load_state_dict(state, strict=False)
        tower = self._placed(tower)
        photos = torch.cat([self.captioned, self.labelled])
        pooled = self.seen(tower.pooled, photos).double()
        wanted = self.seen(self.anchor_image, photos).double()
        mean, aim = pooled.mean(0), wanted.mean(0)
        centred = pooled - mean
        gram = centred.T @ centred + 0.3 * len(photos) * centred.var(0).mean() * torch.eye(
            FEATURES, device=self.device, dtype=torch.float64
        )
        solution = torch.linalg.solve(gram, centred.T @ (wanted - aim)).T
        with torch.no_grad():
            tower.map.weight.copy_(solution)
            tower.map.bias.copy_(aim - solution @ mean)
        return tower

    def committee(self) -> tuple[list[ImageTower], SentenceTower]:
        """All of them, trained together: each tower learns alone, beside the same sentences."""
        plan = self.plan
        sentences = self.sentence_tower()
        towers = [self.released_image_tower(0.4), self.fresh_tower(1), self.fresh_tower(0)]
        paths = [self.work / f"tower-{n}.pt" for n in range(3)]
        spoken = self.work / "sentences.pt"
        if spoken.exists():
            sentences.load_state_dict(torch.load(spoken))
            for tower, path in zip(towers, paths, strict=True):
                tower.load_state_dict(torch.load(path))
        else:
            self._train_committee(towers, sentences, plan)
            for tower, path in zip(towers, paths, strict=True):
                torch.save(tower.state_dict(), path)
            torch.save(sentences.state_dict(), spoken)
        for module in (*towers, sentences):
            module.requires_grad_(False).eval()
        return towers, sentences

    def _train_committee(
        self, towers: list[ImageTower], sentences: SentenceTower, plan: Plan
    ) -> None:
        said = {kind: self.sentences(kind, "minilm") for kind in ("captions", "labels", "world")}
        meant = self.directions(self.sentences("captions", "clip")[:, 0])
        scale = nn.Parameter(torch.tensor(math.log(20.0), device=self.device))
        for tower in towers:
            tower.begin()
        sentences.train()
        encoder, head = list(sentences.encoder.parameters()), list(sentences.head.parameters())
        optimizer = Optimizer(
            [
                {"params": [p for t in towers for p in t.trainable()], "lr": plan.trunk_rate},
                {
                    "params": [p for t in towers for p in t.map.parameters()],
                    "lr": plan.head_rate / 2,
                },
                {"params": encoder, "lr": plan.encoder_rate},
                {"params": head, "lr": plan.head_rate / 2},
                {"params": [scale], "lr": 1e-3, "weight_decay": 0.0},
            ],
            plan.committee_steps,
            seconds=plan.committee_seconds,
            keep=0.98,
        )
        world_meant = None
        while optimizer.done < 1:
            photos, own = self._captions_of(plan.captioned)
            others = torch.randint(len(self.owner), (plan.others,), device=self.device)
            named = torch.multinomial(self._label_chances, plan.labelled)
            ways = torch.randint(said["labels"].shape[1], (len(said["labels"]),))
            world = torch.randint(len(said["world"]), (plan.others // 2,), device=self.device)
            text = sentences(
                _stacked(
                    [
                        said["captions"][own, self._ways(len(own), said["captions"].shape[1])],
                        said["captions"][others, 0],
                        said["labels"][torch.arange(len(ways)), ways],
                        said["world"][world, 0],
                    ]
                )
            )
            if world_meant is None:
                world_meant = self.directions(self.sentences("world", "clip")[:, 0])
            leaf = text.detach().requires_grad_(True)
            parts = leaf.split([len(own), len(others), len(ways), len(world)])
            right = self._right(photos, own, others, meant)
            with torch.no_grad():
                shown = views(torch.cat([self.captioned[photos], self.labelled[named]]), Looks())
                anchored = self.anchor_image(shown)
            line = []
            for tower in towers:
                images = tower(shown)
                pieces = self._lesson(images, parts, right, named, scale.exp().clamp(max=100))
                held = 1 - (images * anchored).sum(1).mean()
                (sum(pieces) + plan.anchor * held).backward()
                line.append(" ".join(f"{float(p):.2f}" for p in (*pieces, held)))
            kept = 1 - (parts[3] * world_meant[world]).sum(1).mean()
            (len(towers) * plan.anchor * kept).backward()
            text.backward(leaf.grad)
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(0, LOGIT_SCALE_CAP)
            if optimizer.due(0.5):
                told = f"{' | '.join(line)} kept {float(kept):.3f} scale {float(scale.exp()):.1f}"
                self.say(f"committee: step {optimizer.taken}: {told}")
                self._measure_committee(towers, sentences, optimizer.average)
        optimizer.average.swap()
        self.scale = float(scale.exp())
        (self.work / "scale.json").write_text(json.dumps(self.scale))

    def _measure_committee(
        self, towers: list[ImageTower], sentences: SentenceTower, average: Average
    ) -> None:
        average.swap()
        for module in (*towers, sentences):
            module.eval()
        texts = self.said(sentences, self.sentences("dev", "minilm")[:, 0])
        seen = [self.seen(tower, self.dev) for tower in towers]
        for number, rows in enumerate(seen):
            self.measure(f"tower {number}", rows, texts)
        anchored = self.seen(self.anchor_image, self.dev)
        self.measure("committee", self._agreed([*seen, anchored]), texts)
        for tower in towers:
            tower.begin()
        sentences.train()
        average.swap()

    def _agreed(self, opinions: Sequence[Tensor]) -> Tensor:
        shares = zip(self.plan.shares, opinions, strict=True)
        return unit(torch.stack([share * rows for share, rows in shares]).sum(0))

    def _captions_of(self, count: int) -> tuple[Tensor, Tensor]:
        """Different captioned photos, and one caption of each."""
        photos = torch.randperm(len(self.captioned), device=self.device)[:count]
        first, last = self._first_caption[photos], self._first_caption[photos + 1]
        own = first + (torch.rand(count, device=self.device) * (last - first)).long()
        return photos, own

    def _ways(self, count: int, ways: int) -> Tensor:
        """Mostly as it was written, now and then in another way."""
        drawn = torch.randint(ways, (count,), device=self.device)
        return torch.where(torch.rand(count, device=self.device) < 0.6, 0, drawn)

    def _right(self, photos: Tensor, own: Tensor, others: Tensor, meant: Tensor) -> Tensor:
        """(photos, own + others) bool: whose caption it is, or one that says nearly the same."""
        keys = torch.cat([own, others])
        same = self.owner[keys] == photos[:, None]
        return same | (meant[own] @ meant[keys].T > _SAME_MEANING)

    def _lesson(
        self,
        images: Tensor,
        parts: Sequence[Tensor],
        right: Tensor,
        named: Tensor,
        scale: Tensor,
    ) -> list[Tensor]:
        """Photos find captions, captions photos, labelled photos their names and each other."""
        count = len(right)
        captioned, labelled = images[:count], images[count:]
        own, others, names = parts[:3]
        to_text = rows_loss(captioned, torch.cat([own, others]), scale, right) / count
        to_image = rows_loss(own, captioned, scale, right[:, :count].T) / count
        to_name = functional.cross_entropy(scale * labelled @ names.T, self.label[named])
        alike = self._likeness(labelled, named)
        return [to_text / 2, to_image / 2, to_name / 2, self.plan.likeness * alike / 4]

    def _likeness(self, labelled: Tensor, named: Tensor) -> Tensor:
        label, source = self.label[named], self.source[named]
        comparable = (source[:, None] == source) & ~torch.eye(
            len(named), dtype=torch.bool, device=self.device
        )
        alike = (label[:, None] == label) & comparable
        return likeness_loss(labelled, labelled, alike, comparable)

    # Stage two.

    def image_tower(self, towers: list[ImageTower], sentences: SentenceTower) -> ImageTower:
        """The released tower, told by the committee."""
        tower = self.released_image_tower(0.1)
        path = self.work / "image.pt"
        if not path.exists():
            self._train_image_tower(tower, towers, sentences)
            torch.save(tower.state_dict(), path)
        tower.load_state_dict(torch.load(path))
        return tower.eval().requires_grad_(False)

    def _train_image_tower(
        self, tower: ImageTower, towers: list[ImageTower], sentences: SentenceTower
    ) -> None:
        plan = self.plan
        scale = json.loads((self.work / "scale.json").read_text())
        captions = self.said(sentences, self.sentences("captions", "minilm"))
        names = self.said(sentences, self.sentences("labels", "minilm"))
        dev = self.said(sentences, self.sentences("dev", "minilm")[:, 0])
        members = [*towers, self.anchor_image]
        self.measure("all agreed", self._agreed([self.seen(t, self.dev) for t in members]), dev)
        tower.begin()
        optimizer = Optimizer(
            [
                {"params": tower.trainable(), "lr": plan.image_rate},
                {"params": list(tower.map.parameters()), "lr": 2 * plan.image_rate},
            ],
            plan.image_steps,
            seconds=plan.image_seconds,
        )
        everyone = len(self.captioned) + len(self.labelled)
        while optimizer.done < 1:
            photos, own = self._captions_of(plan.told)
            others = torch.randint(len(self.owner), (4 * plan.told,), device=self.device)
            named = torch.multinomial(self._label_chances, plan.named)
            drawn = torch.randint(everyone, (plan.mixed,), device=self.device)
            with torch.no_grad():
                shown = views(torch.cat([self.captioned[photos], self.labelled[named]]), Looks())
                two = blended(views(self._anyone(drawn), Looks()))
                pixels = torch.cat([shown, two])
                agreed = self._agreed([member(pixels) for member in members])
            images = tower(pixels)
            said = captions[own, self._ways(len(own), captions.shape[1])]
            right = self._right(photos, own, others, captions[:, 0])
            way = int(torch.randint(names.shape[1], ()))
            parts = (said, captions[others, 0], names[:, way])
            known = images[: len(shown)]
            pieces = self._lesson(known, parts, right, named, torch.tensor(scale).to(known))
            distance = 1 - (images * agreed).sum(1).mean()
            (20 * distance + sum(pieces)).backward()
            optimizer.step()
            if optimizer.due(0.25):
                line = " ".join(f"{float(p):.2f}" for p in pieces)
                self.say(f"image: step {optimizer.taken}: {line} distance {float(distance):.4f}")
                optimizer.average.swap()
                self.measure("image", self.seen(tower.eval(), self.dev), dev)
                optimizer.average.swap()
                tower.begin()
        optimizer.average.swap()

    def _anyone(self, rows: Tensor) -> Tensor:
        """Photos by their numbers, captioned ones first."""
        count = len(self.captioned)
        some = torch.cat(
            [self.captioned[rows[rows < count]], self.labelled[rows[rows >= count] - count]]
        )
        return some[torch.randperm(len(some), device=self.device)]


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if name.startswith(prefix)
    }


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
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--plan", type=json.loads, default={}, help="JSON of what to change in it")
    chosen = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    plan = replace(TINY if chosen.tiny else Plan(), **chosen.plan)
    run = Run(chosen.pack, chosen.start, chosen.work, plan, chosen.device)
    run.say(f"plan: {asdict(plan)}")
    run.load()
    released = run.said(
        lambda t: embed_tokens(run.anchor_text, t), run.sentences("dev", "clip")[:, 0]
    )
    run.measure("released", run.seen(run.anchor_image, run.dev), released)
    towers, sentences = run.committee()
    image = run.image_tower(towers, sentences)
    some = run.captioned[:: max(1, len(run.captioned) // 2048)]
    settle_norms(image.trunk, (as_they_are(part) for part in some.split(128)))
    write_image(image, chosen.work / IMAGE)
    run.measure("image, norms settled", run.seen(image, run.dev), released)
    run.say("written")


if __name__ == "__main__":
    main()
