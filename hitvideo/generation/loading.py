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
    model.to(torch.bfloat16 if device.type == "cuda" else torch.float32).heads.float()
    weights = directory.model_weights()
    if fault := _misfit(model, weights):
        raise ConfigError(f"{directory.path}: its weights do not fit its config.yaml: {fault}")
    fingerprint = weights_digest(weights)
    places = model.to_empty(device=device).state_dict()
    for name in list(weights):  # one after the other, so that what is copied is let go of
        places[name].copy_(weights.pop(name))
    return model.eval(), fingerprint


def _misfit(model: LanguageModel, weights: Mapping[str, torch.Tensor]) -> str | None:
    """The first weight that the model or the file lacks, or that has another shape there."""
    ours, theirs = ({name: list(tensor.shape) for name, tensor in each.items()} for each in (model.state_dict(), weights))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"{short(name)} has shape {theirs.get(name, 'none')}, config.yaml says {ours.get(name, 'none')}"
    return None


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
