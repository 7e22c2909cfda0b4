"""The towers as training on a GPU begins: the released ones, and others that say what they say."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.pocket.export import WEIGHTS
from benchmarks.pocket.heads import FEATURES, TextHead, unit
from benchmarks.pocket.material import Material
from benchmarks.pocket.settings import Settings
from benchmarks.pocket.student import TextTower
from benchmarks.pocket.towers import ImageTower, Optimizer, SentenceTower, embed_tokens, say, see
from clipsearch.models.torchvision_shim import import_torchvision


class Beginnings:
    """Towers on one device.

    Args:
        pack: what `pack.py` wrote.
        start: a released `pocket`'s directory.
    """

    def __init__(self, pack: Path, start: Path, settings: Settings, device: str) -> None:
        self.settings, self.device, self._pack = settings, device, pack
        self._state = load_file(start / WEIGHTS)

    def released_image_tower(self, dropout: float = 0.3) -> ImageTower:
        """A copy to train."""
        dim = self.settings.dim - 1
        tower = ImageTower(self.settings.lite, dim, dropout)
        state = _under(self._state, "visual.trunk.")
        tower.trunk.load_state_dict(state)
        with torch.no_grad():
            tower.map.weight.copy_(self._state["visual.head.proj.weight"][:dim].float())
            tower.map.bias.copy_(self._state["visual.head.proj.bias"][:dim].float())
        return self.placed(tower)

    def placed(self, tower: ImageTower) -> ImageTower:
        """On the device, laid out as it is trained faster there."""
        tower.layout = self.layout
        return tower.to(self.device).eval().to(memory_format=self.layout)

    @cached_property
    def layout(self) -> torch.memory_format:
        """The order of a tower's activations in which it is trained faster here."""
        layouts = (torch.channels_last, torch.contiguous_format)
        if self.device == "cpu":
            return layouts[0]
        seconds = {layout: self._seconds_of_a_step(layout) for layout in layouts}
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
    def image_tower(self) -> ImageTower:
        """The released one as it is, to stay near."""
        return self.released_image_tower().requires_grad_(False)

    @cached_property
    def text_tower(self) -> TextTower:
        """The released one."""
        tower = TextTower(self.settings, self._state["token_embedding.weight"].float())
        tower.load_open_clip({k: v.float() for k, v in self._state.items()})
        return tower.to(self.device).requires_grad_(False)

    def directions(self, tokens: Tensor) -> Tensor:
        """(..., D - 1) unit rows: where the released text tower puts sentences, not how far."""
        return unit(say(lambda t: embed_tokens(self.text_tower, t), tokens)[..., :-1])

    def fresh_tower(self, lite: int, material: Material) -> ImageTower:
        """From ImageNet's weights; its map says what the released tower says (ridge regression)."""
        tower = ImageTower(lite, self.settings.dim - 1, 0.3)
        state = {k: v.float() for k, v in load_file(self._pack / f"lite{lite}.safetensors").items()}
        tower.trunk.load_state_dict(state, strict=False)
        tower = self.placed(tower)
        photos = torch.cat([material.captioned, material.labelled])
        pooled = see(tower.pooled, photos).double()
        wanted = see(self.image_tower, photos).double()
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

    def sentence_tower(self, material: Material, steps: int) -> SentenceTower:
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
            tokens = material.sentences(kind, "minilm")
            vectors.append(say(bare.encode, tokens).flatten(0, -2))
            meant.append(self.directions(material.sentences(kind, "clip")).flatten(0, -2))
        inputs, wanted = torch.cat(vectors), torch.cat(meant)
        head = TextHead(inputs.mean(0).cpu(), self.settings.dim - 1, 1024).to(self.device)
        optimizer = Optimizer([{"params": list(head.parameters()), "lr": 2e-3}], steps)
        for _ in range(steps):
            rows = torch.randint(len(inputs), (4096,), device=self.device)
            loss = 1 - (unit(head(inputs[rows])) * wanted[rows]).sum(1).mean()
            loss.backward()
            optimizer.step()
        return SentenceTower(encoder, head.eval())


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if name.startswith(prefix)
    }
