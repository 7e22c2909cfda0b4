"""The exact gradient of a large contrastive batch in the memory of a small one.

A contrastive loss needs all features at once, but a tower's activations only while its own part
of the batch goes through (Gao et al. 2021, 'Scaling deep contrastive learning batch size under
memory limited setup'):

1. embed the batch chunk by chunk without keeping activations;
2. from the features alone, take the loss and its gradient at every feature, at the scale and bias;
3. embed each chunk again, now with activations, and hand it its part of that gradient.

A batch of one chunk keeps its activations from the first pass and skips the second. Several
processes gather features before step 2 and add up each other's gradients after it; step 3 is then
plain data-parallel training.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from clipsearch.errors import ModelError, TrainingDataError
from clipsearch.train.loss import Direction, positive_rows, rows_loss, sigmoid_rows_loss
from clipsearch.train.towers import Towers, batch_norms

if TYPE_CHECKING:
    from torch import Tensor

    from clipsearch.records import UInt8Array

# Rows of the (B, B) logits that exist at a time: 512 x 4,096 in float32 are 8 MB.
_ROWS = 512


@dataclass(slots=True)
class Inputs:
    """This process' part of a batch: b pairs. A locked tower's vectors stand for its inputs.

    Attributes:
        pixels: (b, S, S, 3) uint8, or None with `image_vectors` (b, D) or with `image_features`
            (b, F) of a locked trunk.
        tokens: (b, L) int64, or None with `text_vectors` (b, D) or `text_features` (b, G).
        boxes: (b, 4) crops, or None for whole photos.
        photos, captions, labels: (b,) int64, equal where pairs are positives of each other.
    """

    photos: Tensor
    captions: Tensor
    labels: Tensor
    pixels: UInt8Array | None = None
    boxes: Tensor | None = None
    tokens: Tensor | None = None
    image_vectors: Tensor | None = None
    image_features: Tensor | None = None
    text_features: Tensor | None = None
    text_vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True, slots=True)
class Objective:
    """Which loss: symmetric InfoNCE, one direction of it, or SigLIP's."""

    siglip: bool = False
    direction: Direction = "both"


class _Outputs(NamedTuple):
    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor | None


def backward(
    towers: Towers,
    inputs: Inputs,
    objective: Objective,
    *,
    micro_batch: int,
    precision: str = "fp32",
    parallel: Any = None,
) -> float:
    """Add the gradient of the whole batch's loss to every trained parameter.

    Args:
        inputs: this process' part; all processes bring equally many pairs.
        micro_batch: pairs that go through the towers at a time.
        parallel: the model in DistributedDataParallel, under several processes.
    Returns:
        The loss over all processes' pairs, in nats.
    Raises:
        ModelError: batch statistics are on, and the two passes would see unlike batches.
        TrainingDataError: fewer than two pairs in all.
    """
    import torch

    chunks = [slice(i, i + micro_batch) for i in range(0, len(inputs), micro_batch)]
    if len(chunks) > 1 and any(layer.training for layer in batch_norms(towers.model)):
        raise ModelError(
            "the model normalises over the batch, which would differ between the two passes",
            hint="`Towers.training_mode` keeps its statistics fixed",
        )
    model = towers.model if parallel is None else parallel
    if len(chunks) == 1:
        outputs = _forward(model, towers, inputs, chunks[0], precision)
        loss, gradients = _at_features(_detached(outputs), inputs, objective)
        _push_back(outputs, gradients)
        return loss

    random_states = []
    with torch.no_grad():
        parts = []
        for chunk in chunks:
            random_states.append(_random_state(towers))
            parts.append(_forward(towers.model, towers, inputs, chunk, precision))
    whole = _Outputs(
        torch.cat([part.images for part in parts]),
        torch.cat([part.texts for part in parts]),
        parts[0].scale,
        parts[0].bias,
    )
    loss, gradients = _at_features(_detached(whole), inputs, objective)
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        # Gradients are averaged over processes once, with the last chunk.
        wait: AbstractContextManager[Any] = (
            nullcontext() if parallel is None or last else parallel.no_sync()
        )
        with wait:
            _restore(towers, random_states[number])
            outputs = _forward(model, towers, inputs, chunk, precision)
            # Scale and bias take their gradient with the last chunk; they must be part of every
            # backward pass that is averaged, or DistributedDataParallel waits for them and
            # leaves the towers' gradients as they were.
            share = 1.0 if last else 0.0
            _push_back(
                outputs,
                _Outputs(
                    gradients.images[chunk],
                    gradients.texts[chunk],
                    gradients.scale * share,
                    None if gradients.bias is None else gradients.bias * share,
                ),
            )
    return loss


def pairs_that_fit(towers: Towers, inputs: Inputs, precision: str, available_bytes: int) -> int:
    """How many pairs' activations fit into half of the memory: a power of two, measured on two.

    The bytes that autograd keeps are counted as they are saved, each storage once.
    """
    import torch

    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in towers.model.parameters()}
    state = _random_state(towers)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = _forward(towers.model, towers, inputs, slice(0, 2), precision)
    del outputs
    _restore(towers, state)
    per_pair = sum(size for place, size in kept.items() if place not in weights) / 2
    fit = int(available_bytes / 2 / max(per_pair, 1))
    return 1 << max(fit.bit_length() - 1, 1)


def _forward(model: Any, towers: Towers, inputs: Inputs, rows: slice, precision: str) -> _Outputs:
    images = tokens = None
    if inputs.pixels is not None:
        boxes = None if inputs.boxes is None else inputs.boxes[rows]
        images = towers.image_inputs(inputs.pixels[rows], boxes)
    elif inputs.image_features is not None:
        images = inputs.image_features[rows]
    if inputs.tokens is not None:
        tokens = inputs.tokens[rows]
    elif inputs.text_features is not None:
        tokens = inputs.text_features[rows]
    with towers.autocast(precision):
        image_features, text_features, scale, *bias = model(images, tokens)
    if inputs.image_vectors is not None:
        image_features = inputs.image_vectors[rows]
    if inputs.text_vectors is not None:
        text_features = inputs.text_vectors[rows]
    return _Outputs(
        image_features.float() if image_features.element_size() < 4 else image_features,
        text_features.float() if text_features.element_size() < 4 else text_features,
        scale,
        bias[0] if bias else None,
    )


def _detached(outputs: _Outputs) -> _Outputs:
    images, texts, scale, bias = (None if value is None else value.detach() for value in outputs)
    assert images is not None
    assert texts is not None
    assert scale is not None
    return _Outputs(images, texts, scale, bias)


def _at_features(own: _Outputs, inputs: Inputs, objective: Objective) -> tuple[float, _Outputs]:
    """The loss of all pairs, and its gradient at this process' features, scale and bias.

    Scaled so that the average over processes is the gradient of the mean over all pairs. The
    logits exist in blocks of rows, so that memory grows with the batch, not with its square.
    """
    import torch

    world, rank = _processes()
    images = _gathered(own.images).requires_grad_()
    texts = _gathered(own.texts).requires_grad_()
    photos, captions, labels = map(_gathered, (inputs.photos, inputs.captions, inputs.labels))
    if len(images) < 2:
        raise TrainingDataError(
            "a contrastive batch needs at least 2 pairs: with one, no photo has a wrong caption",
            hint="raise `--batch-size`, or bring more pairs",
        )
    scale = own.scale.clone().requires_grad_()
    bias = None if own.bias is None else own.bias.clone().requires_grad_()
    first, count = rank * len(own.images), len(own.images)
    ways = 2 if objective.direction == "both" and not objective.siglip else 1
    total = torch.zeros((), device=images.device)
    for start in range(first, first + count, _ROWS):
        rows = slice(start, min(start + _ROWS, first + count))
        same = positive_rows(photos, captions, labels, rows.start, rows.stop)
        if objective.siglip:
            assert bias is not None
            block = sigmoid_rows_loss(images[rows], texts, scale, bias, same)
        else:
            block = torch.zeros((), device=images.device)
            if objective.direction != "text_to_image":
                block = block + rows_loss(images[rows], texts, scale, same)
            if objective.direction != "image_to_text":
                block = block + rows_loss(texts[rows], images, scale, same)
        block = block / (ways * count)
        block.backward()  # type: ignore[no-untyped-call]
        total += block.detach()

    assert images.grad is not None
    assert texts.grad is not None
    assert scale.grad is not None
    if world > 1:  # other processes' losses depend on these features too
        torch.distributed.all_reduce(images.grad)
        torch.distributed.all_reduce(texts.grad)
        torch.distributed.all_reduce(total)
    mine = slice(first, first + count)
    gradients = _Outputs(
        images.grad[mine], texts.grad[mine], scale.grad, None if bias is None else bias.grad
    )
    return float(total) / world, gradients


def _push_back(outputs: _Outputs, gradients: _Outputs) -> None:
    """Hand the gradient at the outputs to whatever they were computed from."""
    import torch

    reached = [
        (value, gradient)
        for value, gradient in zip(outputs, gradients, strict=True)
        if value is not None and gradient is not None and value.requires_grad
    ]
    torch.autograd.backward([v for v, _ in reached], [g for _, g in reached])


def _processes() -> tuple[int, int]:
    """(how many, which one this is)."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1, 0
    return torch.distributed.get_world_size(), torch.distributed.get_rank()


def _gathered(part: Tensor) -> Tensor:
    """All processes' rows, in the order of their ranks."""
    import torch

    world, _ = _processes()
    if world == 1:
        return part.clone()
    parts = [torch.empty_like(part) for _ in range(world)]
    torch.distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def _random_state(towers: Towers) -> tuple[Tensor, Tensor | None]:
    import torch

    cuda = torch.cuda.get_rng_state(towers.device) if towers.device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _restore(towers: Towers, state: tuple[Tensor, Tensor | None]) -> None:
    import torch

    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], towers.device)
