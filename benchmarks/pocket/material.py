"""What a GPU learns from: photos and tokens on the device, and batches drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.pocket.heads import likeness_loss
from benchmarks.pocket.pack import KINDS, Pictures, Tokens, read_pictures, read_tokens
from benchmarks.pocket.photos import open_rgb, squash
from benchmarks.pocket.settings import WholePlan
from clipsearch.train.loss import rows_loss

_SAME_MEANING = 0.95  # sentences this near are no negatives of each other


class Material:
    """Photos (B, 3, S, S) uint8 and sentences as tokens, on one device.

    Attributes:
        captioned: photos with captions, the painted ones last; `owner`: the photo of each caption.
        labelled: photos with labels; `label`, `source`: the group of names and the collection.
        dev, dev_owner: photos to choose by.
    """

    def __init__(self, pack: Path, side_px: int, plan: WholePlan, device: str) -> None:
        self._side_px, self._plan, self.device = side_px, plan, device
        kinds = {kind: read_pictures(pack, kind) for kind in KINDS}
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
        self._tokens = read_tokens(pack)
        # Collections of a few hundred photos are met as often as their square root says.
        share = torch.bincount(self.source).float().rsqrt()[self.source]
        self._label_chances = share / share.sum()
        first = torch.searchsorted(self.owner, torch.arange(len(self.captioned) + 1).to(self.owner))
        self._first_caption = first

    def _pixels(self, pictures: Pictures) -> Tensor:
        def read(jpeg: bytes) -> np.ndarray:
            return np.asarray(squash(open_rgb(jpeg), self._side_px)).transpose(2, 0, 1)

        with ThreadPoolExecutor(16) as pool:
            return torch.from_numpy(np.stack(list(pool.map(read, pictures.jpegs)))).to(self.device)

    def sentences(self, kind: str, which: str) -> Tensor:
        """(G, V, L) int32 tokens on the device, `which` being clip or minilm."""
        tokens: Tokens = self._tokens[kind]
        most = self._plan.most_world if kind in ("world", "imagenet") else None
        return torch.from_numpy(getattr(tokens, which)[:most].astype(np.int32)).to(self.device)

    def captions_of(self, count: int) -> tuple[Tensor, Tensor]:
        """Different captioned photos, and one caption of each."""
        photos = torch.randperm(len(self.captioned), device=self.device)[:count]
        first, last = self._first_caption[photos], self._first_caption[photos + 1]
        own = first + (torch.rand(count, device=self.device) * (last - first)).long()
        return photos, own

    def ways(self, count: int, ways: int) -> Tensor:
        """Mostly as it was written, now and then in another way."""
        drawn = torch.randint(ways, (count,), device=self.device)
        return torch.where(torch.rand(count, device=self.device) < 0.6, 0, drawn)

    def right(self, photos: Tensor, own: Tensor, others: Tensor, meant: Tensor) -> Tensor:
        """(photos, own + others) bool: whose caption it is, or one that says nearly the same."""
        keys = torch.cat([own, others])
        same = self.owner[keys] == photos[:, None]
        return same | (meant[own] @ meant[keys].T > _SAME_MEANING)

    def named(self, count: int) -> Tensor:
        """Labelled photos, some of them perhaps more than once."""
        return torch.multinomial(self._label_chances, count)

    def any_captions(self, count: int) -> Tensor:
        """Of any photos."""
        return torch.randint(len(self.owner), (count,), device=self.device)

    def anyone(self, drawn: int) -> Tensor:
        """So many photos of both kinds."""
        count = len(self.captioned)
        rows = torch.randint(count + len(self.labelled), (drawn,), device=self.device)
        some = torch.cat(
            [self.captioned[rows[rows < count]], self.labelled[rows[rows >= count] - count]]
        )
        return some[torch.randperm(len(some), device=self.device)]

    def lesson(
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
        return [to_text / 2, to_image / 2, to_name / 2, self._plan.likeness * alike / 4]

    def _likeness(self, labelled: Tensor, named: Tensor) -> Tensor:
        label, source = self.label[named], self.source[named]
        comparable = (source[:, None] == source) & ~torch.eye(
            len(named), dtype=torch.bool, device=self.device
        )
        alike = (label[:, None] == label) & comparable
        return likeness_loss(labelled, labelled, alike, comparable)
