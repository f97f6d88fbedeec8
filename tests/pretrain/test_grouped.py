"""Training in the order of llm.groups: every layout takes the same steps in it, and a resumed run goes on as if not stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitvideo.errors import ConfigError
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.pretrain.runs import TINY, compare, run, run_all

# START slots: 8 + 8 + 8, which two ranks can share.
GROUPS = "llm.groups=[null,[1,1,2],[2,2,1],[2,4,2]]"
ALL = f"train.steps=6 llm.ancestors=true train.corrupt=0.2 {GROUPS}"


def test_every_layout_takes_the_same_steps_in_grouped_order(tmp_path: Path, manifest: Path) -> None:
    one = run(tmp_path, manifest, "one", 1, ALL)
    orders = [row["grouped"] for row in one]
    assert set(orders) == {0.0, 1.0}, "some steps of each order, or the test shows nothing"
    layouts = {
        "sequence": f"{ALL} parallel.tensor=2 parallel.sequence=true parallel.activation_checkpointing=selective",
        "context": f"{ALL} parallel.context=2 parallel.zero_stage=1",
        "data": f"{ALL} train.micro_batch=1 parallel.zero_stage=3 parallel.activation_checkpointing=block",
    }
    for name, rows in run_all(tmp_path, manifest, 2, layouts).items():
        compare(one, rows, layouts[name])
        assert [row["grouped"] for row in rows] == orders
    raster = run(tmp_path, manifest, "raster", 1, f"{ALL} train.grouped=0")
    first = orders.index(1.0)
    assert [row["loss"] for row in raster[:first]] == [row["loss"] for row in one[:first]]
    assert raster[first]["loss"] != one[first]["loss"]
    assert "grouped" not in raster[0]
    assert one[-1]["validation_grouped_loss_level_3"] != one[-1]["validation_loss_level_3"]


@pytest.mark.parametrize("extra", ["", pytest.param("train.compile=true", marks=pytest.mark.slow)])
def test_a_run_stopped_between_the_orders_goes_on_bit_for_bit(tmp_path: Path, manifest: Path, extra: str) -> None:
    whole = run(tmp_path, manifest, "whole", 1, f"{ALL} {extra}")
    rows = []
    for steps in (3, 6):
        rows = run(tmp_path, manifest, "parts", 1, f"{ALL} train.steps={steps} train.schedule=constant {extra}")
    straight = run(tmp_path, manifest, "straight", 1, f"{ALL} train.schedule=constant {extra}")
    assert [row["loss"] for row in rows] == [row["loss"] for row in straight]
    assert len(whole) == len(rows)


def test_a_run_in_raster_order_is_a_beginning(tmp_path: Path, manifest: Path) -> None:
    """Its weights fit a run with groups as they are, and are worth something in the other order."""
    run(tmp_path, manifest, "raster", 1, "train.steps=8 llm.ancestors=true")
    start = f"train.start_from.run={tmp_path}/raster text.model={tmp_path}/raster/text_tokenizer.model"
    (first, *_), (fresh, *_) = (
        run(tmp_path, manifest, name, 1, f"train.steps=2 llm.ancestors=true train.grouped=1 {GROUPS} {extra}")
        for name, extra in (("tuned", start), ("fresh", ""))
    )
    assert first["grouped"] == fresh["grouped"] == 1
    assert first["loss"] < fresh["loss"] - 0.1


def test_both_orders_are_rehearsed(tmp_path: Path, manifest: Path) -> None:
    rows = run(tmp_path, manifest, "loud", 1, f"{ALL} train.rehearse=true")
    assert [row["loss"] for row in rows] == [row["loss"] for row in run(tmp_path, manifest, "quiet", 1, ALL)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llm.groups=[null,[1,1,2]]"], "2 entries, the hierarchy has 4 levels"),
        (["llm.groups=[null,null,[1,1,3],null]"], r"\[1, 1, 3\] cells do not divide level 2's grid of \[2, 4, 4\]"),
        (["llm.groups=[null,[0,1,2],null,null]"], r"llm\.groups"),
        (["llm.groups=[[1,1,1],null,null,null]", "parallel.context=8", "llm.heads=16", "llm.kv_heads=16", "llm.width=128",
          "llm.rope_axes=[4,2,2]", "text.window=28"], r"adds 4 slots to a row, which 8 ranks"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings_as(PretrainRun, TINY, ["data.manifest=none", *words])
