"""Loads a run's language model: no random initialisation, and no second copy of the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from hitvideo.errors import ConfigError, short
from hitvideo.llm.model import LanguageModel
from hitvideo.runs.directory import RunDirectory
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun

SAMPLED = 1024


def load_model(directory: RunDirectory, settings: PretrainRun, device: torch.device) -> tuple[LanguageModel, str]:
    """The model in eval mode, and the fingerprint of its weights: bf16 on a GPU, fp32 on a CPU; its heads always in fp32.

    Raises ConfigError if the weights are not there, damaged, or not those of this model.
    """
    with torch.device("meta"):
        model = LanguageModel(settings.llm, make_layout(settings))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = directory.model_weights()
    fingerprint = weights_digest(weights)
    placed = {}
    for name in list(weights):  # one after the other, so that what is converted is let go of
        kind = torch.float32 if name.startswith("heads.") else dtype
        placed[name] = weights.pop(name).to(device, kind)
    try:
        model.load_state_dict(placed, assign=True)
    except RuntimeError as error:
        found = short(" ".join(str(error).split()), 400)
        raise ConfigError(f"{directory.path}: its weights do not fit its config.yaml: {found}") from error
    return model.eval(), fingerprint


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits of a sha256 of every tensor's name and shape and of up to SAMPLED of its elements, evenly spaced.

    Any step of training changes it, and it does not take reading all of a large model.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        flat = weights[name].detach().flatten()
        some = flat[:: max(1, -(-len(flat) // SAMPLED))].float().cpu().contiguous()
        digest.update(f"{name} {tuple(weights[name].shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
