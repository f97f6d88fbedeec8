"""A rank's share of the language model: what it trains with, and what the plan counts."""

from __future__ import annotations

import torch

from hitvideo.llm.layers import DenseLayers, Layers
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun


def share_of_model(settings: PretrainRun, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """What this tensor-parallel rank holds of a run's model, on the device of the caller's context.

    Megatron's groups must be there, real (topology.py) or not (fake_ranks.py), if the run has tensor or context ranks. `dtype`
    is that of Megatron's matrices; all others have torch's default.
    """
    parallel = settings.parallel
    layers: Layers = DenseLayers()
    trunk_layers: Layers | None = None
    if parallel.tensor * parallel.context > 1:
        from hitvideo.parallel.layers import MegatronLayers

        layers = MegatronLayers(parallel.tensor, dtype)
        if parallel.sequence or parallel.context > 1:
            trunk_layers = MegatronLayers(parallel.tensor, dtype, parallel.sequence, parallel.context > 1)
    return LanguageModel(settings.llm, make_layout(settings), layers, trunk_layers, parallel.activation_checkpointing)
