"""Wilson's interval against its definition and published figures."""

import math

import pytest

from hitvideo.metrics.intervals import Z, share, share_text, wilson


@pytest.mark.parametrize(("right", "of"), [(1, 3), (42, 64), (0, 20), (20, 20), (999, 1000)])
def test_its_ends_are_the_shares_that_just_explain_the_count(right: int, of: int) -> None:
    """The interval is {p : |right/of - p| ≤ Z √(p (1 - p) / of)}, so at its ends both sides are equal."""
    for end in wilson(right, of):
        assert abs(right / of - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / of), abs=1e-12)


def test_known_values() -> None:
    """Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0, 1)
    assert share(81, 263) == {"rate": 0.308, "low": 0.2553, "high": 0.3662}
    assert share_text(share(20, 20)) == "100 % (84–100)"
