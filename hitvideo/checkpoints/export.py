"""A run's weights as one safetensors file, merged from its newest whole checkpoint on one CPU.

    ours     names and shapes of the run's model, as `weights/model.safetensors` has them
    llama    trunk and embedding under the names of Hugging Face's LlamaModel (Qwen3Model where the run has QK-norm), with a
             config.json beside: `LlamaModel.from_pretrained(folder)` loads it

What maps is exact: blocks, final norm, the embedding of ids. What has no place in those models is left out and must be
supplied by whoever runs them: heads, embeddings of levels, the sum over a slot's sub-codes, and 3D-RoPE with its queries at
the position of the next slot; theirs turn by one position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from hitvideo.checkpoints.reader import Reader, complete, damage
from hitvideo.errors import ConfigError
from hitvideo.files import replace_json, replacing
from hitvideo.settings.language_model import LLMSection
from hitvideo.settings.programs import PretrainRun, load_settings

Names = Literal["ours", "llama"]
_LLAMA = (
    (r"embedding\.weight", "embed_tokens.weight"),
    (r"trunk\.norm\.(.*)", r"norm.\1"),
    (r"trunk\.blocks\.(\d+)\.attention_norm\.(.*)", r"layers.\1.input_layernorm.\2"),
    (r"trunk\.blocks\.(\d+)\.mlp_norm\.(.*)", r"layers.\1.post_attention_layernorm.\2"),
    (r"trunk\.blocks\.(\d+)\.attention\.([qkv])\.(.*)", r"layers.\1.self_attn.\2_proj.\3"),
    (r"trunk\.blocks\.(\d+)\.attention\.out\.(.*)", r"layers.\1.self_attn.o_proj.\2"),
    (r"trunk\.blocks\.(\d+)\.attention\.([qk]_norm)\.(.*)", r"layers.\1.self_attn.\2.\3"),
    (r"trunk\.blocks\.(\d+)\.mlp\.(gate|up|down)\.(.*)", r"layers.\1.mlp.\2_proj.\3"),
)


def export_weights(run: Path, out: Path, names: Names = "ours", dtype: torch.dtype = torch.float32) -> Path:
    """Write the weights of a run directory; returns the checkpoint they were taken from."""
    settings = load_settings(run / "config.yaml") if (run / "config.yaml").is_file() else None
    if settings is None:
        raise ConfigError(f"{run}: no config.yaml, so this is not a run directory")
    if names == "llama" and not isinstance(settings, PretrainRun):
        raise ConfigError(f"{run} is a run of {settings.program}; only a language model has Llama's names")
    checkpoint = newest(run / "checkpoints")
    reader = Reader(checkpoint)
    weights = dict(reader.weights(dtype))
    if names == "llama":
        assert isinstance(settings, PretrainRun)
        weights = dict(llama_named(weights))
        replace_json(out.with_name("config.json"), llama_config(settings.llm, weights, dtype), indent=1)
    with replacing(out) as file:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file, metadata={"format": "pt"})
    return checkpoint


def newest(directory: Path) -> Path:
    """The newest checkpoint whose checksums are right."""
    found = [path for path in reversed(complete(directory)) if damage(path) is None]
    if not found:
        raise ConfigError(f"{directory} holds no whole checkpoint")
    return found[0]


def llama_named(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Those weights that LlamaModel has, under its names."""
    for name, tensor in weights.items():
        for pattern, theirs in _LLAMA:
            if re.fullmatch(pattern, name):
                yield re.sub(pattern, theirs, name), tensor


def llama_config(section: LLMSection, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, object]:
    """config.json of the Hugging Face model that the trunk is."""
    kind = "qwen3" if section.qk_norm else "llama"
    return {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}Model"],
        "vocab_size": weights["embed_tokens.weight"].shape[0],
        "hidden_size": section.width,
        "intermediate_size": section.hidden,
        "num_hidden_layers": section.layers,
        "num_attention_heads": section.heads,
        "num_key_value_heads": section.kv_heads,
        "head_dim": section.head_dim,
        "rms_norm_eps": section.norm_eps,
        "rope_theta": section.rope_theta,
        "tie_word_embeddings": False,
        "dtype": str(dtype).removeprefix("torch."),
    }
