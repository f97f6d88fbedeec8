"""CLIP similarity of videos and their prompts (CLIPSIM, arXiv 2104.14806): 100 × the cosine of a frame and the prompt.

The mean over a video's frames, then over the videos. You provide a folder with a CLIP as transformers saves it (config,
tokenizer, image processor, model.safetensors), such as a copy of openai/clip-vit-base-patch32; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from hitvideo.errors import ConfigError, short


class ClipSimilarity:
    """Prompts and videos → similarities. Raises ConfigError if transformers or a file of the folder is missing."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        try:
            from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
        except ImportError as error:
            raise ConfigError(f"CLIP similarity needs transformers, {error}; pip install transformers") from error
        if not (folder / "model.safetensors").is_file():
            raise ConfigError(f"{folder}: has no model.safetensors; give the folder of a CLIP as transformers saves it")
        known: dict[str, Any] = {"local_files_only": True}
        try:
            loaded: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **known)
            self._words: Any = AutoTokenizer.from_pretrained(folder, **known)
            self._images: Any = CLIPImageProcessorPil.from_pretrained(folder, **known)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"{folder}: cannot be read as CLIP: {short(error, 300)}") from error
        model, told = loaded
        if missing := sorted(told["missing_keys"]):  # transformers would go on with random ones
            raise ConfigError(f"{folder}: model.safetensors is not a CLIP: it has no {missing[0]} and {len(missing) - 1} more")
        self._model: Any = model.to(device).eval()
        self._device = device

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], videos: Sequence[npt.NDArray[np.uint8]]) -> list[float]:
        """uint8 videos (T, H, W, 3) and a prompt for each → the mean similarity of each video's frames, -100 to 100.

        A prompt is cut to the pieces that the text encoder takes.
        """
        found = []
        for prompt, video in zip(prompts, videos, strict=True):
            text = self._words([prompt], truncation=True, return_tensors="pt").to(self._device)
            images = self._images(images=list(video), return_tensors="pt")["pixel_values"].to(self._device)
            out = self._model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=images)
            cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)  # (T,)
            found.append(100 * float(cosines.mean()))
        return found
