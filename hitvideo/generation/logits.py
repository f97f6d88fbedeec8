"""What the settings of sampling do to logits: guidance, temperature, top-k, top-p."""

from __future__ import annotations

import torch

from hitvideo.generation.sampling import LevelSampling, Sampling


def strengths(sampling: Sampling, level: int, first: int, stop: int, slots: int) -> float | torch.Tensor:
    """Guidance in slots first … stop - 1 of a video's `slots` (counted from 0): one number, or with a ramp (n,)."""
    top = sampling.at(level).guidance
    if not sampling.guidance_ramp or top == 1:
        return top
    return 1 + (top - 1) * torch.arange(first, stop, dtype=torch.float32) / max(1, slots - 1)


def guide(
    conditional: torch.Tensor, unconditional: torch.Tensor, guidance: float | torch.Tensor, apg: float = 0.0
) -> torch.Tensor:
    """u + g (c - u): 1 is the conditional model, above it the caption counts for more (Ho & Salimans 2022).

    Logits (…, V); `guidance` one number or one for each of the logits' rows. With `apg` the result is c + (g - 1) d, where d is
    c - u after both are centred (a softmax knows no constant), of a root mean square of at most `apg`, and orthogonal to c.
    """
    if not apg:
        return unconditional + guidance * (conditional - unconditional)
    conditional = conditional - conditional.mean(-1, keepdim=True)
    change = conditional - (unconditional - unconditional.mean(-1, keepdim=True))
    size = change.square().mean(-1, keepdim=True).sqrt()
    change = change * (apg / size.clamp(min=1e-12)).clamp(max=1.0)
    along = (change * conditional).sum(-1, keepdim=True) / conditional.square().sum(-1, keepdim=True).clamp(min=1e-12)
    return conditional + (guidance - 1) * (change - along * conditional)


def restrict(logits: torch.Tensor, sampling: LevelSampling) -> torch.Tensor:
    """Logits (…, V) after temperature, top-k and top-p; what is ruled out is -inf. `temperature` is not 0.

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
