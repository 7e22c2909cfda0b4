"""The text tower: a small CLIP text transformer that learns the teacher's space by heart.

It starts as a bag of words that the sentence encoder knows: every token of the vocabulary is
encoded as if it were a sentence, and the principal components of these vectors are the first
token embeddings. Then it learns from the teacher where some 400,000 sentences lie, and from the
photos which caption is whose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pocket.corpus import WAYS_TO_SAY
from benchmarks.pocket.half import half_where_quick
from benchmarks.pocket.heads import unit, unit_rows
from benchmarks.pocket.sentence_encoder import SentenceEncoder
from benchmarks.pocket.settings import Settings
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array
from clipsearch.train.loss import info_nce_loss

VOCABULARY = 49408
START, END = VOCABULARY - 2, VOCABULARY - 1


class Block(nn.Module):
    """One pre-LN transformer block; parameters are named as open_clip names them at export."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for linear in (self.qkv, self.out, self.c_fc, self.c_proj):
            nn.init.normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)
        for linear in (self.out, self.c_proj):  # residual branches start small (GPT-2)
            linear.weight.data *= (2 * layers) ** -0.5

    def forward(self, signal: Tensor) -> Tensor:
        rows, length, width = signal.shape
        parts = self.qkv(self.ln_1(signal)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # Spelt out: for a dozen tokens the fused kernel's backward is six times slower on a CPU.
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        future = torch.ones(length, length, dtype=torch.bool, device=signal.device).triu(1)
        seen = scores.masked_fill(future, float("-inf")).softmax(-1).to(value.dtype) @ value
        signal = signal + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        hidden = functional.gelu(self.c_fc(self.ln_2(signal)))
        return signal + self.c_proj(hidden)  # type: ignore[no-any-return]


class TextTower(nn.Module):
    """open_clip's text tower, without the cost of padding: as long as the longest row."""

    def __init__(self, settings: Settings, embeddings: Tensor) -> None:
        super().__init__()
        width = settings.text_width
        self.token_embedding = nn.Embedding.from_pretrained(embeddings, freeze=False)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(settings.context_length, width))
        self.blocks = nn.ModuleList(
            Block(width, settings.text_heads, settings.text_layers)
            for _ in range(settings.text_layers)
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, settings.dim) * width**-0.5)

    def forward(self, words: Tensor, ends: Tensor) -> Tensor:
        """(B, L, W) token embeddings, (B,) where each sentence ends -> (B, D), not normalised."""
        signal = words + self.positional_embedding[: words.shape[1]]
        for block in self.blocks:
            signal = block(signal)
        last = self.ln_final(signal[torch.arange(len(ends)), ends])
        return last @ self.text_projection  # type: ignore[no-any-return]

    def open_clip_state(self) -> dict[str, Tensor]:
        """The same weights under open_clip's names."""
        return {name: value.detach() for name, value in self._open_clip_names()}

    @torch.no_grad()
    def load_open_clip(self, state: dict[str, Tensor]) -> None:
        """Take weights by open_clip's names."""
        for name, value in self._open_clip_names():
            value.copy_(state[name])

    def _open_clip_names(self) -> Iterator[tuple[str, Tensor]]:
        yield "positional_embedding", self.positional_embedding
        yield "text_projection", self.text_projection
        yield "token_embedding.weight", self.token_embedding.weight
        yield "ln_final.weight", self.ln_final.weight
        yield "ln_final.bias", self.ln_final.bias
        for number, block in enumerate(self.blocks):
            prefix = f"transformer.resblocks.{number}."
            for name, value in block.named_parameters():
                layer, _, kind = name.partition(".")
                if layer == "qkv":
                    yield f"{prefix}attn.in_proj_{kind}", value
                elif layer == "out":
                    yield f"{prefix}attn.out_proj.{kind}", value
                elif layer in ("c_fc", "c_proj"):
                    yield f"{prefix}mlp.{layer}.{kind}", value
                else:
                    yield prefix + name, value


def first_embeddings(settings: Settings) -> Tensor:
    """(vocabulary, width): the sentence encoder's view of every token, in principal components."""
    tokenizer = import_open_clip().tokenizer.SimpleTokenizer()
    words = [tokenizer.decode([i]).strip() or "." for i in range(START)]
    vectors = SentenceEncoder().encode(words)
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred[::5], full_matrices=False)
    components = centred @ axes[: settings.text_width].T
    components /= np.linalg.norm(components, axis=1).mean()
    ends = 0.1 * np.random.default_rng(settings.seed).standard_normal((2, settings.text_width))
    return torch.from_numpy(np.concatenate([components, ends]).astype(np.float32))


@torch.no_grad()
def turn(tower: TextTower, before: Float32Array, after: Float32Array) -> None:
    """Rotate the tower's vectors from one teacher's space into another's (Schoenemann 1966).

    Args:
        before, after: (N, D) unit rows of the same sentences in both spaces.
    """
    left, _, right = np.linalg.svd(before.T @ after)
    tower.text_projection.copy_(tower.text_projection @ torch.from_numpy(left @ right))


def tokenize(sentences: Sequence[str], context_length: int) -> np.ndarray:
    """(N, L) uint16, L as long as the longest sentence needs."""
    tokenizer = import_open_clip().tokenizer.SimpleTokenizer()
    most = context_length - 2
    encoded = [[START, *tokenizer.encode(text)[:most], END] for text in sentences]
    rows = np.zeros((len(encoded), max(map(len, encoded))), dtype=np.uint16)
    for row, tokens in zip(rows, encoded, strict=True):
        row[: len(tokens)] = tokens
    return rows


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the student learns from: tokens and the teacher's vectors, group by group.

    Attributes:
        captions, labels, imagenet: (G, V, L) uint16 tokens; `*_taught`: (G, V, D) unit rows.
        world: (S, L); `world_taught`: (S, D).
        photos: (views, N, D - 1), labelled: (views, M, D - 1): the image tower's vectors.
    """

    captions: np.ndarray
    captions_taught: Float32Array
    labels: np.ndarray
    labels_taught: Float32Array
    imagenet: np.ndarray
    imagenet_taught: Float32Array
    world: np.ndarray
    world_taught: Float32Array
    photos: Float32Array
    labelled: Float32Array


class Paired(Protocol):
    """Who is whose: the photo of each caption, and the label of each labelled photo."""

    @property
    def owner(self) -> np.ndarray: ...
    @property
    def label(self) -> np.ndarray: ...


def train_student(
    tower: TextTower,
    lessons: Lessons,
    corpus: Paired,
    settings: Settings,
    *,
    report: Callable[[int, str], None],
    scale: float,
    hold: float = 20.0,
) -> None:
    """Distillation and contrast in every step; half of the rows are sentences without a photo.

    Args:
        hold: weight of the distance from where the teacher has the sentences.
    """
    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    table = [tower.token_embedding.weight]
    others = [p for p in tower.parameters() if p is not table[0]]
    gains = [p for p in others if p.ndim < 2]
    matrices = [p for p in others if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.05},
            {"params": gains, "weight_decay": 0.0},
            # Words met seldom keep what the sentence encoder said of them.
            {"params": table, "weight_decay": 0.0, "lr": 0.2 * settings.student_rate},
        ],
        lr=settings.student_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    by_length = np.argsort((lessons.world > 0).sum(1), kind="stable")
    for step in range(settings.student_steps):
        rate = cosine_schedule(step, settings.student_steps, warmup=100)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        paired = _paired(lessons, corpus, settings, rng)
        start = int(rng.integers(max(1, len(by_length) - settings.student_world_batch)))
        rows = by_length[start : start + settings.student_world_batch]
        texts = embed_tokens(tower, paired.tokens)
        world = embed_tokens(tower, lessons.world[rows])
        taught = torch.from_numpy(paired.taught)
        distance = _apart(texts, taught)
        distance = distance + _apart(world, torch.from_numpy(lessons.world_taught[rows]))
        images = torch.from_numpy(paired.images)
        # Where a sentence lies is learned from photos, how far it reaches from the teacher alone.
        with_photo = unit(texts[: len(images), :-1])
        contrast = info_nce_loss(
            images, with_photo, scale, targets=torch.from_numpy(paired.targets)
        )
        loss = hold * distance + contrast
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 5.0)
        optimizer.step()
        report(step + 1, f"distance {distance.item() / 2:.3f} contrast {contrast.item():.3f}")


def _apart(texts: Tensor, taught: Tensor) -> Tensor:
    """How far from the teacher's rows: where they point, and how far they are held back."""
    directions = unit(texts[:, :-1]) * unit(taught[:, :-1])
    held_back = texts[:, -1] - taught[:, -1]
    return (1 - directions.sum(1) + held_back.square()).mean()


def embed_tokens(tower: TextTower, tokens: np.ndarray, *, together: int = 96) -> Tensor:
    """Unit rows of zero-padded tokens; sentences of a length go together, unpadded."""
    lengths = (tokens > 0).sum(1)
    order = np.argsort(lengths, kind="stable")
    words = tower.token_embedding(torch.from_numpy(tokens[order, : lengths.max()].astype(np.int64)))
    ends = torch.from_numpy(lengths[order] - 1)
    parts = []
    for start in range(0, len(order), together):
        rows = slice(start, start + together)
        longest = int(ends[rows].max()) + 1
        with half_where_quick():
            parts.append(tower(words[rows, :longest], ends[rows]))
    back = torch.from_numpy(np.argsort(order))
    return unit(torch.cat(parts)[back])


@torch.no_grad()
def embed_all(tower: TextTower, tokens: np.ndarray) -> Float32Array:
    """(N, D) unit rows of many sentences."""
    parts = [embed_tokens(tower, tokens[i : i + 512]).numpy() for i in range(0, len(tokens), 512)]
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _Paired:
    tokens: np.ndarray
    taught: Float32Array
    images: Float32Array
    targets: np.ndarray


def _paired(
    lessons: Lessons, corpus: Paired, settings: Settings, rng: np.random.Generator
) -> _Paired:
    """Captions and labels with their photos' vectors, then ImageNet's names without."""
    count = settings.student_paired_batch
    captions = draw(rng, len(corpus.owner), 3 * count // 4)
    ways = np.where(
        rng.random(len(captions)) < 0.6, 0, rng.integers(WAYS_TO_SAY, size=len(captions))
    )
    owners = corpus.owner[captions]
    labelled = draw(rng, len(corpus.label), count // 4)
    names = corpus.label[labelled]
    how = rng.integers(lessons.labels.shape[1], size=len(names))
    classes = rng.choice(1000, count // 6, replace=False)
    said = rng.integers(lessons.imagenet.shape[1], size=len(classes))
    views = len(lessons.photos)
    images = np.concatenate(
        [
            lessons.photos[rng.integers(views, size=len(owners)), owners],
            lessons.labelled[rng.integers(views, size=len(names)), labelled],
        ]
    )
    tokens = (lessons.captions[captions, ways], lessons.labels[names, how])
    identity = np.concatenate([owners, 10**6 + names])
    taught = np.concatenate(
        [
            lessons.captions_taught[captions, ways],
            lessons.labels_taught[names, how],
            lessons.imagenet_taught[classes, said],
        ]
    )
    where = unit_rows(taught[: len(identity), :-1])
    return _Paired(
        _stack([*tokens, lessons.imagenet[classes, said]]),
        taught,
        images,
        (identity[:, None] == identity) | (where @ where.T > 0.95),
    )


def draw(rng: np.random.Generator, population: int, most: int) -> np.ndarray:
    """Different numbers below `population`, at most so many."""
    return rng.choice(population, min(most, population), replace=False)


def _stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in parts])


def cosine_schedule(step: int, steps: int, *, warmup: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
