"""Intervals against SciPy and published examples, sentences that follow from them, and the markers of a results file."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from experiments.tables import QUANTILE, Difference, mean_text, of_shares, paired, provenance, table, verdict, write_tables
from hitvideo.errors import ConfigError

stats = pytest.importorskip("scipy.stats")


def test_quantiles_are_students() -> None:
    for degrees, value in enumerate(QUANTILE, 1):
        assert value == pytest.approx(stats.t.ppf(0.975, degrees), abs=5e-5)


@pytest.mark.parametrize("count", [2, 3, 7, 21])
def test_paired_is_scipys_interval(count: int) -> None:
    random.seed(count)
    values, others = ([random.gauss(mean, 1) for _ in range(count)] for mean in (2, 0))
    expected = stats.ttest_rel(values, others).confidence_interval(0.95)
    found = paired(values, others)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-4)
    assert found.middle == pytest.approx((found.low + found.high) / 2)


def test_one_pair_says_nothing() -> None:
    found = paired([3.0], [1.0])
    assert found == (2.0, -math.inf, math.inf)
    assert not found.sure


def test_newcombes_own_example() -> None:
    # Newcombe (1998), table II, method 10: 56/70 - 48/80 = 0.2 has the interval 0.0524 to 0.3339.
    found = of_shares(56, 70, 48, 80)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        (Difference(0.3, 0.1, 0.5), "a is higher than b"),
        (Difference(-0.3, -0.5, -0.1), "a is lower than b"),
        (Difference(0.3, -0.1, 0.7), "cannot be told"),
        (Difference(0.3, -math.inf, math.inf), "one seed"),
    ],
)
def test_the_verdict_follows_from_the_interval(difference: Difference, says: str) -> None:
    sentence = verdict("PSNR", "a", "b", difference, "dB")
    assert says in sentence
    assert f"{difference.middle:+.2f} dB" in sentence


def test_a_table_is_markdown() -> None:
    lines = table(("", "x"), [["a", "1"], ["", "2"]]).splitlines()
    assert lines[1] == "| --- | --- |"
    assert [line.count("|") for line in lines] == [3] * 4
    assert mean_text([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert mean_text([1.0]) == "1.00"


def test_only_the_table_between_its_markers_changes(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    before = "# Title\n<!-- experiment: a -->\nold\n<!-- end -->\nprose \\1\n<!-- experiment: ab -->\nkept\n<!-- end -->\n"
    file.write_text(before)
    write_tables(file, {"a": "new \\g<1>"}, "about")
    assert file.read_text() == before.replace("old", "about\n\nnew \\g<1>")
    write_tables(file, {"a": "newer"}, "about")
    assert file.read_text() == before.replace("old", "about\n\nnewer")
    kept = file.read_text()
    write_tables(file, {"c": "x"}, "about")
    assert file.read_text() == f"{kept}<!-- experiment: c -->\nabout\n\nx\n<!-- end -->\n"
    file.write_text(kept + kept)
    with pytest.raises(ConfigError, match="2 places are marked <!-- experiment: a -->"):
        write_tables(file, {"a": "x"}, "about")
    other = tmp_path / "folder/new.md"
    write_tables(other, {"c": "x", "d": "y"}, "about")
    assert other.read_text().count("<!-- end -->") == 2


def test_provenance_has_command_seeds_and_versions() -> None:
    about = provenance("python -m experiments rope", 3)
    assert "`python -m experiments rope`" in about
    assert "seeds 0 to 2" in about
    import torch

    assert f"torch {torch.__version__}" in about
