"""CLIP similarity against transformers' own logits, on a tiny CLIP with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hitvideo.errors import ConfigError
from hitvideo.metrics.clip_similarity import ClipSimilarity

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `save_pretrained` writes of a CLIP, with a vocabulary of single letters."""
    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=16).save_pretrained(
        tmp_path
    )
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    sizes = {**small, "vocab_size": len(words), "max_position_embeddings": 16, **ends}
    looks = {**small, "image_size": 32, "patch_size": 16}
    transformers.CLIPModel(transformers.CLIPConfig(text_config=sizes, vision_config=looks, projection_dim=8)).save_pretrained(
        tmp_path
    )
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessorPil(**square).save_pretrained(tmp_path)
    return tmp_path


def test_it_is_the_mean_of_transformers_logits(folder: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8) for frames in (1, 3)]
    prompts = ["red", "a blue circle that is longer than the text window of sixteen"]
    found = ClipSimilarity(folder)(prompts, videos)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    model.logit_scale.data.fill_(float(np.log(100)))  # logits are then 100 × the cosine
    words = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    for value, prompt, video in zip(found, prompts, videos, strict=True):
        text = words([prompt], truncation=True, return_tensors="pt")
        with torch.no_grad():
            images = pixels(images=list(video), return_tensors="pt")["pixel_values"]
            logits = model(**text, pixel_values=images).logits_per_image
        assert value == pytest.approx(float(logits.mean()), abs=1e-3)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


def test_a_wrong_folder_is_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent: has no model\.safetensors"):
        ClipSimilarity(tmp_path / "absent")
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if "text" not in name}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="is not a CLIP: it has no"):
        ClipSimilarity(folder)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="cannot be read as CLIP"):
        ClipSimilarity(folder)
