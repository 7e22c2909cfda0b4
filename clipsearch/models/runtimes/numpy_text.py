"""CLIP's text tower in numpy: no torch on the way from a query to its vector.

A causal tower that takes its result at the end mark never looks past it, so only the real tokens
of a text are run: a five-word query costs 7 positions instead of 77. All texts of a batch share
each matrix product; weights are views into the file, halves are widened once.

Source: `open_clip.transformer.TextTransformer` (pre-LayerNorm blocks, Radford et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from clipsearch.errors import ModelError
from clipsearch.models.config import ModelConfig
from clipsearch.models.weights import WeightsFile
from clipsearch.records import Float32Array

# Texts to run together: the widest activation (tokens x 4 width) should stay in the cache.
_TEXTS_AT_ONCE = 64

# Settings of open_clip's text towers that this one can run, and settings that change nothing.
_UNDERSTOOD = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask",
    "pool_type", "proj_type", "proj_bias", "norm_kwargs", "act_kwargs", "pad_id", "eos_id",
    "tokenizer_kwargs", "output_tokens",
}  # fmt: skip


class _Block(NamedTuple):
    ln_1: tuple[Float32Array, Float32Array]
    attention_in: tuple[Float32Array, Float32Array]  # (3W, W), (3W,)
    attention_out: tuple[Float32Array, Float32Array]
    ln_2: tuple[Float32Array, Float32Array]
    mlp_in: tuple[Float32Array, Float32Array]
    mlp_out: tuple[Float32Array, Float32Array]


def supports(config: ModelConfig, weights: WeightsFile) -> bool:
    """Whether this is a text tower that `NumpyTextTower` computes exactly."""
    text = config.text
    used = {key for key, value in text.items() if value not in (None, False, {})}
    return (
        used <= _UNDERSTOOD
        and text.get("pool_type", "argmax") == "argmax"
        and text.get("proj_type", "linear") == "linear"
        and set(text.get("norm_kwargs") or {}) <= {"eps"}
        and set(text.get("act_kwargs") or {}) <= {"approximate"}
        and not (text.get("act_kwargs") and config.quick_gelu)
        and _prefix(weights) + "ln_final.weight" in weights
    )


class NumpyTextTower:
    """Token ids of B texts -> (B, dim) float32 rows, not yet unit length.

    Raises:
        ModelError: the weights do not fit the configuration.
    """

    def __init__(self, config: ModelConfig, weights: WeightsFile) -> None:
        self._weights = weights
        self._prefix = _prefix(weights)
        self._heads = int(config.text.get("heads", 8))
        self._causal = not config.text.get("no_causal_mask", False)
        self._context_length = config.context_length
        self._eps = np.float32((config.text.get("norm_kwargs") or {}).get("eps", 1e-5))
        self._activate = _activation(config)
        self._positions = weights.float32(self._prefix + "positional_embedding")
        self._blocks = [
            self._block(f"{self._prefix}transformer.resblocks.{layer}.")
            for layer in range(int(config.text.get("layers", 12)))
        ]
        self._ln_final = self._pair(self._prefix + "ln_final.")
        self._projection, self._projection_bias = self._read_projection()

    def __call__(self, tokens: Sequence[Sequence[int]]) -> Float32Array:
        parts = [
            self._run(tokens[start : start + _TEXTS_AT_ONCE])
            for start in range(0, len(tokens), _TEXTS_AT_ONCE)
        ]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _run(self, tokens: Sequence[Sequence[int]]) -> Float32Array:
        # open_clip takes the first of the highest ids; written out in a text, the end mark can
        # also stand before the end.
        last = np.array([row.index(max(row)) for row in tokens])
        # Without the causal mask, padding is looked at too.
        whole = np.full(len(tokens), self._context_length)
        lengths = last + 1 if self._causal else whole
        # Every real token of every text is one row of `x`; `row` and `position` say which.
        row = np.repeat(np.arange(len(tokens)), lengths)
        starts = np.cumsum(lengths) - lengths
        position = np.arange(len(row)) - starts[row]
        ids = np.zeros((len(tokens), int(lengths.max())), np.int64)
        for at, text in enumerate(tokens):
            kept = text[: lengths[at]]
            ids[at, : len(kept)] = kept
        x = self._weights.float32(self._prefix + "token_embedding.weight", ids[row, position])
        x = x + self._positions[position]
        mask = self._mask(lengths)
        for block in self._blocks:
            attended = self._attention(self._norm(x, block.ln_1), block, row, position, mask)
            x += attended
            hidden = self._activate(_linear(self._norm(x, block.ln_2), block.mlp_in))
            x += _linear(hidden, block.mlp_out)
        pooled = self._norm(x[starts + last], self._ln_final) @ self._projection
        if self._projection_bias is not None:
            pooled += self._projection_bias
        return pooled

    def _mask(self, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Float32Array:
        """(B, 1, L, L) float32 to add: -inf where a token must not look."""
        longest = int(lengths.max())
        column = np.arange(longest)
        seen = column[None, None, :] < lengths[:, None, None]  # padding of shorter texts
        if self._causal:
            seen = seen & (column[None, None, :] <= column[None, :, None])
        else:
            seen = np.broadcast_to(seen, (len(lengths), longest, longest))
        return np.where(seen, np.float32(0), np.float32(-np.inf))[:, None]

    def _attention(
        self,
        x: Float32Array,
        block: _Block,
        row: np.ndarray[tuple[int], np.dtype[np.int64]],
        position: np.ndarray[tuple[int], np.dtype[np.int64]],
        mask: Float32Array,
    ) -> Float32Array:
        width = x.shape[1]
        side = width // self._heads
        packed = _linear(x, block.attention_in)
        # Scatter the real tokens into (B, L, 3W); what stays zero is masked.
        spread = np.zeros((mask.shape[0], mask.shape[2], 3 * width), np.float32)
        spread[row, position] = packed
        shape = (mask.shape[0], mask.shape[2], 3, self._heads, side)
        query, key, value = spread.reshape(shape).transpose(2, 0, 3, 1, 4)
        scores = (query * np.float32(side**-0.5)) @ key.transpose(0, 1, 3, 2)
        scores += mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3)[row, position]
        return _linear(mixed.reshape(len(row), width), block.attention_out)

    def _norm(self, x: Float32Array, affine: tuple[Float32Array, Float32Array]) -> Float32Array:
        centred: Float32Array = x - x.mean(axis=-1, keepdims=True)
        variance = np.einsum("nw,nw->n", centred, centred)[:, None] / np.float32(x.shape[-1])
        centred /= np.sqrt(variance + self._eps)
        centred *= affine[0]
        centred += affine[1]
        return centred

    def _pair(self, name: str) -> tuple[Float32Array, Float32Array]:
        return self._weights.float32(name + "weight"), self._weights.float32(name + "bias")

    def _block(self, name: str) -> _Block:
        return _Block(
            self._pair(name + "ln_1."),
            (
                self._weights.float32(name + "attn.in_proj_weight"),
                self._weights.float32(name + "attn.in_proj_bias"),
            ),
            self._pair(name + "attn.out_proj."),
            self._pair(name + "ln_2."),
            self._pair(name + "mlp.c_fc."),
            self._pair(name + "mlp.c_proj."),
        )

    def _read_projection(self) -> tuple[Float32Array, Float32Array | None]:
        """(W, dim), and its bias where the tower has one."""
        name = self._prefix + "text_projection"
        if name in self._weights:
            return self._weights.float32(name), None
        weight = self._weights.float32(name + ".weight").T
        bias = name + ".bias"
        return weight, self._weights.float32(bias) if bias in self._weights else None


def _prefix(weights: WeightsFile) -> str:
    """open_clip keeps the text tower's tensors under `text.` in its newer classes."""
    return "text." if "text.ln_final.weight" in weights else ""


def _linear(x: Float32Array, layer: tuple[Float32Array, Float32Array]) -> Float32Array:
    weight, bias = layer
    y: Float32Array = x @ weight.T
    y += bias
    return y


def _activation(config: ModelConfig) -> Callable[[Float32Array], Float32Array]:
    if config.quick_gelu:
        return _quick_gelu
    approximate = (config.text.get("act_kwargs") or {}).get("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ModelError(f"the text tower's activation is unknown: GELU with {approximate!r}")
    return _gelu_tanh if approximate == "tanh" else _gelu


def _quick_gelu(x: Float32Array) -> Float32Array:
    with np.errstate(over="ignore"):  # exp(-1.702 x) may overflow to inf: the sigmoid is then 0
        y: Float32Array = x / (np.float32(1) + np.exp(np.float32(-1.702) * x))
    return y


def _gelu_tanh(x: Float32Array) -> Float32Array:
    inner: Float32Array = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    inner = np.tanh(inner)
    inner += np.float32(1)
    inner *= np.float32(0.5)
    inner *= x
    return inner


def _gelu(x: Float32Array) -> Float32Array:
    """x times the normal distribution function, which numpy lacks.

    Source: Abramowitz and Stegun 7.1.26; its absolute error of 1.5e-7 is that of float32.
    """
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    series = np.float32(1.061405429) * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= t
    np.multiply(z, -z, out=z)
    np.exp(z, out=z)
    series *= z  # 1 - erf(|x| / sqrt 2)
    series *= np.float32(0.5)
    series *= x
    y: Float32Array = np.where(x >= 0, x - series, series)
    return y
