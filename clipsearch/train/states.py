"""What a run leaves on disk while it goes: states to resume from, and the log of its numbers.

A state is one safetensors file: weights in training, optimizer moments, averaged weights, and in
its header where the run stands and what it belongs to. It cannot run code, and it is replaced
whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.errors import ModelError, UsageError
from clipsearch.train.towers import replace_file, storage_errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LAST, BEST = "last.safetensors", "best.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class RunState:
    """Where a run stands, besides its tensors.

    Attributes:
        step: steps done. epoch: epochs done and validated.
        recall: mean validation recall after the last epoch. best_recall: the highest yet.
        best, best_epoch: the highest mean reciprocal rank on validation yet.
        stale: epochs in which neither rose.
        micro_batch: found once; another would add up in another order.
        seconds: of all parts of the run.
    """

    step: int = 0
    epoch: int = 0
    recall: float | None = None
    best_recall: float = -1.0
    best: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    micro_batch: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trainable:
    """The tensors of a run: parameters by name, their running average, and their optimizer."""

    parameters: Mapping[str, nn.Parameter]
    average: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are their running averages, where these are kept."""
        kept = {name: self.parameters[name].detach().clone() for name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].data.copy_(value)

    def save_parameters(self, path: Path) -> None:
        """The parameters alone, for a look back: not enough to go on from.

        Raises:
            StorageError: the disk is full or refuses.
        """
        from safetensors.torch import save_file

        tensors = self._tensors()
        with storage_errors(path):
            replace_file(path, lambda draft: save_file(tensors, draft))

    def load_parameters(self, path: Path) -> None:
        """The parameters of a saved state, and nothing else of it."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            self._put({name: file.get_tensor(f"model.{name}") for name in self.parameters})

    def _tensors(self) -> dict[str, Tensor]:
        return {f"model.{n}": p.detach().cpu().contiguous() for n, p in self.parameters.items()}

    def save(self, path: Path, state: RunState, identity: Mapping[str, Any]) -> None:
        """Replace the state at `path`.

        Raises:
            StorageError: the disk is full or refuses.
        """
        from safetensors.torch import save_file

        tensors = self._tensors()
        tensors |= {f"average.{n}": value.cpu().contiguous() for n, value in self.average.items()}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter, {})
            for moment in _MOMENTS:
                if moment in moments:
                    tensors[f"{moment}.{name}"] = moments[moment].cpu().contiguous()
        header = {"state": json.dumps(asdict(state)), "identity": json.dumps(identity)}
        with storage_errors(path):
            replace_file(path, lambda draft: save_file(tensors, draft, header))

    def load(self, path: Path, identity: Mapping[str, Any]) -> RunState:
        """Everything of a saved state.

        Raises:
            ModelError: the file is damaged.
            UsageError: it belongs to a run with other settings, data or base model.
        """
        import torch
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                header = file.metadata()
                _check_identity(json.loads(header["identity"]), identity, path)
                state = RunState(**json.loads(header["state"]))
                names = set(file.keys())
                self._put({name: file.get_tensor(f"model.{name}") for name in self.parameters})
                for name, value in self.average.items():
                    value.copy_(file.get_tensor(f"average.{name}"))
                for name, parameter in self.parameters.items():
                    if f"{_MOMENTS[0]}.{name}" in names:
                        self.optimizer.state[parameter] = {
                            moment: file.get_tensor(f"{moment}.{name}").to(parameter.device)
                            for moment in _MOMENTS
                        } | {"step": torch.tensor(float(state.step))}
        # TypeError: no header, as in the parameters alone that are kept beside it.
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} is damaged: {error}", hint="begin the run again with another `--output`"
            ) from error
        return state


def _check_identity(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    differences = [
        f"{name}: {theirs.get(name)} there, {value} here"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if differences:
        raise UsageError(
            f"{path} belongs to another run ({'; '.join(differences)})",
            hint="resume with the same words, or begin anew with another `--output`",
        )


class MetricsLog:
    """`metrics.jsonl`, a line a step and a line an epoch, and TensorBoard events where it is here.

    Args:
        step: steps done; what an interrupted run logged beyond them is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "metrics.jsonl"
        with storage_errors(self._path):
            kept = [line for line in read_metrics(folder) if line["step"] <= step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            replace_file(self._path, lambda path: path.write_text(text, encoding="utf-8"))
        self._board = _tensorboard(folder, step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line; plain numbers go to TensorBoard too."""
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in order; a last one that was cut off is dropped."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
