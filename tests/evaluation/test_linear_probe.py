"""The linear probe against sets whose answer is known."""

import pytest
import torch

from hitvideo.evaluation.linear_probe import STRENGTHS, classify


def examples(num: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """300 random signs, of which the first two, as a number, are the label."""
    signs = torch.randint(0, 2, (num, 300), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    return signs, ["abcd"[int(2 * (row[0] > 0) + (row[1] > 0))] for row in signs]


def test_what_is_linear_is_found_among_many_other_signs() -> None:
    """With three signs a class on the line, and more features than the method needs to be told."""
    (fitted, labels), (measured, truth) = examples(400, 0), examples(200, 1)
    found = classify(fitted, labels, measured)
    assert sum(a == b for a, b in zip(found, truth, strict=True)) / 200 > 0.75
    assert found == classify(fitted, labels, measured)


def test_shuffled_labels_give_chance() -> None:
    (fitted, labels), (measured, truth) = examples(400, 0), examples(400, 1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3)).tolist()
    found = classify(fitted, [labels[index] for index in order], measured)
    assert sum(a == b for a, b in zip(found, truth, strict=True)) / 400 < 0.35


def test_a_parity_is_not_linear() -> None:
    """XOR of two signs, which no straight line tells apart."""
    fitted, measured = examples(400, 0)[0], examples(400, 1)[0]
    found = classify(fitted, [str(bool(row[0] * row[1] > 0)) for row in fitted], measured)
    assert sum(a == str(bool(row[0] * row[1] > 0)) for a, row in zip(found, measured, strict=True)) / 400 < 0.6


def test_its_choice_is_ridge_regression_with_the_least_left_out_error() -> None:
    """Against the textbook: for every strength, refit without each example, and predict it."""
    generator = torch.Generator().manual_seed(5)
    fitted, measured = torch.randn(12, 4, generator=generator).double(), torch.randn(30, 4, generator=generator).double()
    labels = ["yes" if row.sum() + 0.8 * torch.randn((), generator=generator) > 0 else "no" for row in fitted]
    targets = torch.tensor([[float(label == name) for name in ("no", "yes")] for label in labels]).double()
    scale = torch.linalg.eigvalsh((fitted - fitted.mean(0)) @ (fitted - fitted.mean(0)).T).clamp(min=0).mean()

    def predict(features: torch.Tensor, wanted: torch.Tensor, others: torch.Tensor, strength: float) -> torch.Tensor:
        mean, middle = features.mean(0), wanted.mean(0)
        centred = features - mean
        weights = torch.linalg.solve(centred.T @ centred + strength * scale * torch.eye(4), centred.T @ (wanted - middle))
        return (others - mean) @ weights + middle

    def left_out(strength: float) -> float:
        errors = []
        for index in range(12):
            rest = [other for other in range(12) if other != index]
            errors.append(predict(fitted[rest], targets[rest], fitted[[index]], strength) - targets[index])
        return float(torch.cat(errors).square().mean())

    best = min(STRENGTHS, key=left_out)
    assert 0 < STRENGTHS.index(best) < len(STRENGTHS) - 1, "the choice must matter here"
    expected = [("no", "yes")[index] for index in predict(fitted, targets, measured, best).argmax(1).tolist()]
    assert classify(fitted, labels, measured) == expected


def test_constant_features_and_too_few_examples() -> None:
    assert classify(torch.ones(3, 2), ["a", "a", "b"], torch.ones(2, 2)) == ["a", "a"]
    with pytest.raises(ValueError, match="at least two"):
        classify(torch.ones(1, 2), ["a"], torch.ones(1, 2))
