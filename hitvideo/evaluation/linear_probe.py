"""A linear probe: can a straight line through the features tell what a video shows?

Ridge regression from features to the one-hot label (Alain & Bengio 2016 probe layers with linear classifiers in this way).
It has a closed form, so there is neither a seed nor a learning rate; its strength is the one with the least leave-one-out
error on the examples it is fitted to. It is solved in the space of examples, which are fewer than the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 3))
"""Ridge penalties that are tried, as multiples of the features' mean square."""


def classify(fitted: Tensor, labels: Sequence[str], measured: Tensor) -> list[str]:
    """Features (n, D) with their n labels, and features (m, D) → the label that the probe gives each of the m.

    Raises ValueError for fewer than two examples.
    """
    if len(fitted) < 2:
        raise ValueError(f"a linear probe needs at least two examples, got {len(fitted)}")
    classes = sorted(set(labels))
    targets = torch.tensor([[float(label == each) for each in classes] for label in labels], dtype=torch.float64)
    features, mean = fitted.double().cpu(), fitted.double().cpu().mean(0)
    centred, others = features - mean, measured.double().cpu() - mean
    kernel = centred @ centred.T  # (n, n)
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp(min=0)
    scale = float(values.mean()) or 1.0
    rotated = vectors.T @ (targets - targets.mean(0))  # (n, classes)

    def coefficients(strength: float) -> Tensor:
        found: Tensor = vectors @ (rotated / (values + strength * scale)[:, None])  # (n, classes)
        return found

    def left_out_error(strength: float) -> float:
        """Mean squared error of each example under the probe fitted to all others: residual / (1 - leverage)."""
        ridge = strength * scale
        leverage = (vectors.square() * (values / (values + ridge))).sum(1) + 1 / len(fitted)  # the mean's share included
        residual = ridge * coefficients(strength)
        return float((residual / (1 - leverage).clamp(min=1e-9)[:, None]).square().mean())

    best = min(STRENGTHS, key=left_out_error)
    scores = others @ (centred.T @ coefficients(best)) + targets.mean(0)  # (m, classes)
    return [classes[index] for index in scores.argmax(1).tolist()]
