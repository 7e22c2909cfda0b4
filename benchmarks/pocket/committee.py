"""Three whole image towers and the sentence encoder, trained together on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pocket.beginnings import Beginnings
from benchmarks.pocket.files import Log, whole
from benchmarks.pocket.heads import in_words, unit
from benchmarks.pocket.material import Material
from benchmarks.pocket.settings import WholePlan
from benchmarks.pocket.towers import Average, ImageTower, Optimizer, SentenceTower, say, see
from benchmarks.pocket.views import Looks, views
from clipsearch.train.loss import LOGIT_SCALE_CAP
from clipsearch.train.metrics import retrieval_metrics


@dataclass(frozen=True, slots=True)
class Committee:
    """What they came to.

    Attributes:
        towers: Lite2, Lite1 and Lite0.
        sentences: the sentence encoder and its head, in the towers' space.
        scale: exp(logit_scale), with which they learned.
    """

    towers: list[ImageTower]
    sentences: SentenceTower
    scale: float


def agree(opinions: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """(N, D - 1) unit rows: the weighted mean of what several towers see."""
    weighed = [share * rows for share, rows in zip(shares, opinions, strict=True)]
    return unit(torch.stack(weighed).sum(0))


def measure(log: Log, name: str, images: Tensor, texts: Tensor, material: Material) -> None:
    """Recall on dev."""
    images = functional.pad(images, (0, texts.shape[-1] - images.shape[-1]))
    found = retrieval_metrics(images.cpu().numpy(), texts.cpu().numpy(), material.dev_owner)
    log(f"{name}: dev {in_words(found)}")


def make_committee(
    start: Beginnings, material: Material, plan: WholePlan, log: Log, work: Path
) -> Committee:
    """Trained, or from its file in `work` where there is one."""
    path = work / "committee.pt"
    torch.manual_seed(plan.seed)
    sentences = start.sentence_tower(material, plan.sentence_head_steps)
    towers = [
        start.released_image_tower(0.4),
        start.fresh_tower(1, material),
        start.fresh_tower(0, material),
    ]
    modules = (*towers, sentences)
    if not path.exists():
        scale = _Training(start, material, plan, log, towers, sentences).run()
        with whole(path) as draft:
            torch.save((scale, [module.state_dict() for module in modules]), draft)
    scale, states = torch.load(path)
    for module, state in zip(modules, states, strict=True):
        module.load_state_dict(state)
        module.requires_grad_(False).eval()
    return Committee(towers, sentences, scale)


class _Training:
    """All of them at once: each tower learns alone, beside the same sentences."""

    def __init__(
        self,
        start: Beginnings,
        material: Material,
        plan: WholePlan,
        log: Log,
        towers: list[ImageTower],
        sentences: SentenceTower,
    ) -> None:
        self._start, self._material, self._plan, self._log = start, material, plan, log
        self._towers, self._sentences = towers, sentences
        kinds = ("captions", "labels", "world")
        self._tokens = {kind: material.sentences(kind, "minilm") for kind in kinds}
        # What captions and the world's sentences mean to the released text tower.
        self._meant, self._world_meant = (
            start.directions(material.sentences(kind, "clip")[:, 0]) for kind in kinds[::2]
        )
        self._scale = nn.Parameter(torch.tensor(math.log(20.0), device=material.device))

    def run(self) -> float:
        """To the averages of the weights; gives exp(logit_scale)."""
        self._begin()
        optimizer = self._optimizer()
        while optimizer.done < 1:
            line = self._backward()
            optimizer.step()
            with torch.no_grad():
                self._scale.clamp_(0, LOGIT_SCALE_CAP)
            if optimizer.due(0.5):
                self._log(f"committee: step {optimizer.taken}: {line}")
                self._measure(optimizer.average)
        optimizer.average.swap()
        return float(self._scale.exp())

    def _begin(self) -> None:
        for tower in self._towers:
            tower.begin()
        self._sentences.train()

    def _optimizer(self) -> Optimizer:
        plan, towers, sentences = self._plan, self._towers, self._sentences
        trunks = [p for tower in towers for p in tower.trainable()]
        maps = [p for tower in towers for p in tower.map.parameters()]
        return Optimizer(
            [
                {"params": trunks, "lr": plan.trunk_rate},
                {"params": maps, "lr": plan.head_rate / 2},
                {"params": list(sentences.encoder.parameters()), "lr": plan.encoder_rate},
                {"params": list(sentences.head.parameters()), "lr": plan.head_rate / 2},
                {"params": [self._scale], "lr": 1e-3, "weight_decay": 0.0},
            ],
            plan.committee_steps,
            seconds=plan.committee_seconds,
            keep=0.98,
        )

    def _backward(self) -> str:
        """Gradients of one batch, tower after tower; and the losses for the log."""
        plan, material, said = self._plan, self._material, self._tokens
        photos, own = material.captions_of(plan.captioned)
        others = material.any_captions(plan.others)
        named = material.named(plan.labelled)
        ways = torch.randint(said["labels"].shape[1], (len(said["labels"]),))
        world = torch.randint(len(said["world"]), (plan.others // 2,), device=material.device)
        text = self._sentences(
            _stacked(
                [
                    said["captions"][own, material.ways(len(own), said["captions"].shape[1])],
                    said["captions"][others, 0],
                    said["labels"][torch.arange(len(ways)), ways],
                    said["world"][world, 0],
                ]
            )
        )
        # The sentences' graph is run backwards once, for all towers.
        leaf = text.detach().requires_grad_(True)
        parts = leaf.split([len(own), len(others), len(ways), len(world)])
        right = material.right(photos, own, others, self._meant)
        with torch.no_grad():
            both = torch.cat([material.captioned[photos], material.labelled[named]])
            shown = views(both, Looks())
            anchored = self._start.image_tower(shown)
        line = []
        for tower in self._towers:
            images = tower(shown)
            scale = self._scale.exp().clamp(max=100)
            pieces = material.lesson(images, parts, right, named, scale)
            held = 1 - (images * anchored).sum(1).mean()
            (sum(pieces) + plan.anchor * held).backward()
            line.append(" ".join(f"{float(p):.2f}" for p in (*pieces, held)))
        kept = 1 - (parts[3] * self._world_meant[world]).sum(1).mean()
        (len(self._towers) * plan.anchor * kept).backward()
        text.backward(leaf.grad)
        return f"{' | '.join(line)} kept {float(kept):.3f} scale {float(self._scale.exp()):.1f}"

    def _measure(self, average: Average) -> None:
        average.swap()
        for module in (*self._towers, self._sentences):
            module.eval()
        material = self._material
        texts = say(self._sentences, material.sentences("dev", "minilm")[:, 0])
        seen = [see(tower, material.dev) for tower in self._towers]
        for number, rows in enumerate(seen):
            measure(self._log, f"tower {number}", rows, texts, material)
        agreed = agree([*seen, see(self._start.image_tower, material.dev)], self._plan.shares)
        measure(self._log, "committee", agreed, texts, material)
        self._begin()
        average.swap()


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])
