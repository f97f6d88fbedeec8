"""What the language model's input shows of the coarse levels (llm.ancestors, train.corrupt), and its average (train.ema)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from hitvideo.checkpoints.listing import complete
from hitvideo.checkpoints.reader import Reader
from hitvideo.runs.directory import RunDirectory
from tests.pretrain.runs import compare, run, run_all

ALL = "train.steps=4 llm.ancestors=true train.corrupt=0.4 train.ema=0.5"


def test_every_layout_has_the_same_mistakes_and_ancestors(tmp_path: Path, manifest: Path) -> None:
    one = run(tmp_path, manifest, "one", 1, ALL)
    layouts = {
        "sequence": f"{ALL} parallel.tensor=2 parallel.sequence=true parallel.activation_checkpointing=block",
        "data": f"{ALL} train.micro_batch=1 parallel.zero_stage=3",
    }
    for name, rows in run_all(tmp_path, manifest, 2, layouts).items():
        compare(one, rows, layouts[name])
    clean = run(tmp_path, manifest, "clean", 1, ALL, "train.corrupt=0")
    assert clean[0]["loss"] != one[0]["loss"]
    assert clean[0]["loss_text"] == one[0]["loss_text"], "captions are shown as they are"
    directory = RunDirectory(tmp_path / "one")
    reader, exported = Reader(complete(directory.checkpoints)[-1]), load_file(directory.model_file)
    assert "ancestor.weight" in exported
    assert all(torch.equal(tensor, reader.full(name, "ema")) for name, tensor in exported.items())
    assert not torch.equal(exported["ancestor.weight"], reader.full("ancestor.weight"))
