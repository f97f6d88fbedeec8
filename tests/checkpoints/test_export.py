"""Exported weights: a folder that Hugging Face loads, another model's files that stay, and damage that is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hitvideo.checkpoints.export import export_weights, llama_file
from hitvideo.errors import ConfigError
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.checkpoints.written import write_checkpoint
from tests.pretrain.runs import SMALL, TINY

SETTINGS = load_settings_as(PretrainRun, TINY, SMALL)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    model = LanguageModel(SETTINGS.llm, make_layout(SETTINGS))
    initialize(model, SETTINGS.llm.width, SETTINGS.llm.layers, 0)
    return dict(model.state_dict())


@pytest.fixture
def checkpoint(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    return write_checkpoint(tmp_path / "step-00000001", weights, 1, 2)


def test_the_folder_loads_into_transformers(tmp_path: Path, checkpoint: Path, weights: dict[str, torch.Tensor]) -> None:
    file = llama_file(tmp_path / "new/hf")
    assert llama_file(file) == file == tmp_path / "new/hf/model.safetensors"
    export_weights(checkpoint, SETTINGS, file, "llama")
    theirs, loading = AutoModel.from_pretrained(file.parent, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert torch.equal(theirs.norm.weight, weights["trunk.norm.weight"])
    export_weights(checkpoint, SETTINGS, file, "llama", torch.bfloat16)  # the same model again
    assert json.loads((file.parent / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(file)["norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("content", ['{"model_type": "mine"}', "{", "[]"])
def test_another_models_files_stay(tmp_path: Path, checkpoint: Path, content: str) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        export_weights(checkpoint, SETTINGS, tmp_path / "model.safetensors", "llama")
    assert [(tmp_path / name).read_text() for name in ("config.json", "model.safetensors")] == [content, content]


def test_a_file_that_from_pretrained_does_not_find_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x/trunk\.safetensors: .*model\.safetensors.*x/trunk$"):
        llama_file(Path("x/trunk.safetensors"))


def test_damage_is_named_and_nothing_is_written(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    for number, (fault, culprit) in enumerate((("cut", r"rank-00001\.safetensors"), ("less", r"trunk\.norm\.weight"))):
        path = write_checkpoint(tmp_path / f"step-{number:08d}", weights, 1, 2)
        file = path / "rank-00001.safetensors"
        tensors = load_file(file)
        save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("trunk.norm.weight")}, file)
        if fault == "cut":
            file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ConfigError, match=culprit):
            export_weights(path, SETTINGS, tmp_path / "out/model.safetensors", "llama")
        assert not (tmp_path / "out").exists()
