"""What commands are tried on: video shards, a video tokenizer, token shards and a run, none of them trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.commands import cli
from hitvideo.data.pack import write_moving_shapes
from hitvideo.files import replace_json
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.video.encode import encode_mp4
from hitvideo.video_tokenizer.weights import weights_fingerprint
from tests.checkpoints.written import write_checkpoint
from tests.pretrain.runs import SMALL, TINY
from tests.samples import make_token_shards, tiny_hierarchy
from tests.tokenize_shards.helpers import save_tokenizer

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `hitvideo` with these words; returns exit code, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in words])
        code = caught.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def llm_run(out: Path, weights: Path) -> None:
    """A language model's run that was not trained, with its weights and one checkpoint."""
    settings = load_settings_as(PretrainRun, TINY, [f"run.root={out.parent}", f"run.name={out.name}", *SMALL])
    model = LanguageModel(settings.llm, make_layout(settings))
    initialize(model, settings.llm.width, settings.llm.layers, 0)
    (out / "weights").mkdir(parents=True)
    (out / "config.yaml").write_text(config.to_yaml(settings))
    save_file(model.state_dict(), out / "weights/model.safetensors")
    write_checkpoint(out / "checkpoints/step-00000001", dict(model.state_dict()), 1, 1)
    TextTokenizer.train(["a red thing moves", "a green thing, number 4"] * 3, 400).save(out / "text_tokenizer.model")
    replace_json(out / "video_tokenizer.json", {"fingerprint": weights_fingerprint(weights), "weights": str(weights)})


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the commands need, made once: video shards, a video tokenizer, token shards, and a run."""
    world = tmp_path_factory.mktemp("world")
    save_tokenizer(world / "weights", 0)
    save_tokenizer(world / "other", 7)
    for name, seed in (("videos", 0), ("newer", 1)):
        write_moving_shapes(world / name, 3, seed, tiny_hierarchy()[1], "mixed", 3)
    make_token_shards(world / "tokens", shards=1, per_shard=12)
    llm_run(world / "run", world / "weights")
    (world / "clip.mp4").write_bytes(encode_mp4(np.full((16, 32, 32, 3), 90, np.uint8), 8))
    return world
