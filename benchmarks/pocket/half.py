"""bfloat16 where the processor has instructions for it; elsewhere it takes many times as long."""

from __future__ import annotations

import torch

HALF_IS_QUICK: bool = torch.cpu._is_avx512_bf16_supported()


def half_where_quick() -> torch.autocast:
    """A context in which products are computed in bfloat16, or as they are."""
    return torch.autocast("cpu", torch.bfloat16, enabled=HALF_IS_QUICK)
