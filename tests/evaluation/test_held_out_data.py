"""What a dataset holds out reaches the evaluation: from the command, through shards and tokens, to a run's captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hitvideo import config
from hitvideo.commands.cli import main as hitvideo
from hitvideo.data.video_shards import list_shards, read, scan
from hitvideo.errors import ConfigError
from hitvideo.evaluation.captions import hold_out_of
from hitvideo.evaluation.meaning import refuse_training_seed
from hitvideo.moving_shapes.scenes import is_held_out, parse
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from tests.conftest import ROOT
from tests.tokenize_shards.helpers import save_tokenizer, words
from tokenize_shards.__main__ import main as tokenize


def made(out: Path, *more: str, code: int = 0) -> Path:
    with pytest.raises(SystemExit) as done:
        hitvideo(["data", "moving-shapes", str(out), "--num", "12", "--seed", "1", "--objects", "1", *more])
    assert (done.value.code or 0) == code
    return out


def language_run(path: Path, manifest: Path) -> Path:
    """A run's directory that names a manifest."""
    settings = config.resolve(ROOT / "yaml_configs/pretrain/tiny.yaml")
    settings["data"] = {"manifest": str(manifest)}
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    return path


def test_the_share_goes_from_the_command_to_the_evaluation(tmp_path: Path) -> None:
    shards = made(tmp_path / "shards", "--hold-out", "0.25")
    record = json.loads((shards / "packed.json").read_text())
    assert record["moving_shapes"] == {"seed": 1, "objects": "1", "hold_out": 0.25}
    captions = [read(shard, member).caption for shard in list_shards(str(shards)) for member in scan(shard).samples]
    assert len(captions) == 12
    assert not any(is_held_out(parse(caption), 0.25) for caption in captions)
    assert tokenize(words(save_tokenizer(tmp_path / "weights", 0), shards, tmp_path / "tokens")) == 0
    assert hold_out_of(language_run(tmp_path / "run", tmp_path / "tokens/manifest.json")) == 0.25


def test_a_dataset_without_hold_out_says_so(tmp_path: Path) -> None:
    shards = made(tmp_path / "shards")
    assert json.loads((shards / "packed.json").read_text())["moving_shapes"]["hold_out"] == 0
    assert tokenize(words(save_tokenizer(tmp_path / "weights", 0), shards, tmp_path / "tokens")) == 0
    run = language_run(tmp_path / "run", tmp_path / "tokens/manifest.json")
    with pytest.raises(ConfigError, match=r"holds no combinations out.*--hold-out"):
        hold_out_of(run)
    with pytest.raises(ConfigError, match="is not there to say"):
        hold_out_of(language_run(tmp_path / "other", tmp_path / "absent.json"))


@pytest.mark.parametrize("share", ["0", "1", "-1", "nan", "2"])
def test_shares_without_sense_are_refused(tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "shards", "--hold-out", share, code=2)
    assert "of 120 combinations" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_meaning_is_not_measured_on_the_seed_of_training(tmp_path: Path) -> None:
    shards = made(tmp_path / "shards")
    run = ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml"
    settings = load_settings_as(VideoTokenizerRun, run, [f"data.video_shards={shards}"])
    refuse_training_seed(settings, 2)
    with pytest.raises(ConfigError, match="--seed 1"):
        refuse_training_seed(settings, 1)
