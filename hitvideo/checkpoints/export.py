"""A run's weights as one safetensors file, merged from a checkpoint on one CPU.

    ours     names and shapes of the run's model, as in `weights/model.safetensors`
    llama    trunk and embedding under the names of Hugging Face's LlamaModel (Qwen3Model if the run has QK-norm), with a
             config.json next to it: `AutoModel.from_pretrained(folder)` loads it

What maps is exact: blocks, final norm, the embedding of ids. What those models lack is left out, and whoever runs them must
supply it: heads, embeddings of levels and of ancestors, the sum over a slot's sub-codes, and 3D-RoPE with queries at the
position of the next slot (theirs rotate by one position).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from hitvideo.checkpoints.reader import Reader
from hitvideo.config import Section
from hitvideo.errors import ConfigError
from hitvideo.files import read_json, replace_json, replacing
from hitvideo.settings.language_model import LLMSection
from hitvideo.settings.programs import PretrainRun

Names = Literal["ours", "llama"]
LLAMA_FILE = "model.safetensors"
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


def export_weights(
    checkpoint: Path, settings: Section, out: Path, names: Names = "ours", dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights of a checkpoint of a run with these settings.

    Raises ConfigError if the checkpoint is damaged; if Llama's names are asked for and the run is not a language model's, or
    if another model's config.json is next to `out`.
    """
    if names == "llama" and not isinstance(settings, PretrainRun):
        raise ConfigError(f"{checkpoint}: only a language model has Llama's names; use --names ours")
    weights = dict(Reader(checkpoint).weights(dtype))
    if names == "llama":
        assert isinstance(settings, PretrainRun)
        weights = dict(llama_named(weights))
        description = llama_config(settings.llm, weights, dtype)
        _refuse_another_model(out.with_name("config.json"), description)
    with replacing(out) as file:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file, metadata={"format": "pt"})
    if names == "llama":
        replace_json(out.with_name("config.json"), description, indent=1)


def llama_file(out: Path) -> Path:
    """The file of weights that Hugging Face looks for in a folder. Raises ConfigError for a file of another name."""
    if out.suffix == ".safetensors" and out.name != LLAMA_FILE:
        raise ConfigError(f"{out}: from_pretrained reads a folder with {LLAMA_FILE}; give the folder, {out.with_suffix('')}")
    return out if out.name == LLAMA_FILE else out / LLAMA_FILE


def _refuse_another_model(file: Path, description: dict[str, object]) -> None:
    """The same run may be exported again, in another dtype too."""
    if file.exists():
        found = {**read_json(file, "description of a model"), "dtype": description["dtype"]}
        if found != description:
            raise ConfigError(f"{file} describes another model; export into a new folder")


def llama_named(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that LlamaModel has, under its names."""
    for name, tensor in weights.items():
        for pattern, theirs in _LLAMA:
            if re.fullmatch(pattern, name):
                yield re.sub(pattern, theirs, name), tensor


def llama_config(llm: LLMSection, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, object]:
    """config.json of the Hugging Face model that equals the trunk."""
    kind = "qwen3" if llm.qk_norm else "llama"
    return {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}Model"],
        "vocab_size": weights["embed_tokens.weight"].shape[0],
        "hidden_size": llm.width,
        "intermediate_size": llm.hidden,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "rms_norm_eps": llm.norm_eps,
        "rope_theta": llm.rope_theta,
        "tie_word_embeddings": False,
        "dtype": str(dtype).removeprefix("torch."),
    }
