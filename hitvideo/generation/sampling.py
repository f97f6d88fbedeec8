"""Choosing one entry from logits: guidance, temperature, top-k, top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hitvideo.errors import ConfigError, short


@dataclass(frozen=True)
class Sampling:
    """How generation draws. `top_k` 0 and `top_p` 1 keep every entry; `temperature` 0 takes the likeliest.

    Raises ConfigError for a value out of range; at the ends of the ranges logits of fp32 are still finite.
    """

    guidance: float = 5.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, value, fits, limits in (
            ("guidance", self.guidance, 0 <= self.guidance <= 1000, "0 to 1000"),
            ("temperature", self.temperature, self.temperature == 0 or 1e-3 <= self.temperature <= 1e3, "0, or 0.001 to 1000"),
            ("top-k", self.top_k, self.top_k >= 0, "0 or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not fits:
                raise ConfigError(f"{name} is {short(value)}; it must be {limits}")


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, guidance: float) -> torch.Tensor:
    """u + g (c - u): 1 is the conditional model, above it the caption counts for more (Ho & Salimans 2022)."""
    return unconditional + guidance * (conditional - unconditional)


def restrict(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits (B, V) after temperature, top-k and top-p; what is ruled out is -inf.

    Top-p keeps the smallest set whose probability reaches top_p, the entry that crosses it included (as transformers does).
    """
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all likelier entries
        ordered = ordered.masked_fill((before >= sampling.top_p) & (before > 0), -torch.inf)  # a tiny top_p rounds to 0
        logits = torch.full_like(logits, -torch.inf).scatter(-1, order, ordered)
    return logits


def sample_entry(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Logits (B, V) → entries (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    chances = restrict(logits, sampling).softmax(-1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)
