"""Shares that were counted, with their confidence intervals: 66 % of 64 videos is anything from 54 % to 77 %."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""95 % of a normal distribution lies within this many standard deviations."""


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `right` cases out of `of` were counted (Wilson 1927); (0, 1) of none.

    Unlike share ± error it stays within 0 and 1, and has a width where every case is right.
    """
    if not of:
        return 0.0, 1.0
    share = right / of
    middle, scale = share + Z * Z / (2 * of), 1 + Z * Z / of
    spread = Z * math.sqrt(share * (1 - share) / of + Z * Z / (4 * of * of))
    # At none and at all the formula gives 0 and 1 up to a rounding error.
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return (low if right else 0.0), (high if right < of else 1.0)


def share(right: int, of: int) -> dict[str, float]:
    """`rate` and its 95 % interval `low` to `high`, as evaluations record them."""
    low, high = wilson(right, of)
    return {"rate": round(right / max(of, 1), 4), "low": round(low, 4), "high": round(high, 4)}


def share_text(figure: dict[str, float]) -> str:
    """A share for people: "66 % (60–72)"."""
    return f"{100 * figure['rate']:.0f} % ({100 * figure['low']:.0f}–{100 * figure['high']:.0f})"
