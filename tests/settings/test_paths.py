"""`~` and `$NAME` in settings, and URLs for what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitvideo.errors import ConfigError
from hitvideo.settings.paths import expanded
from hitvideo.settings.programs import PretrainRun, TokenizeRun, load_settings, load_settings_as
from tests.conftest import ROOT

PRETRAIN, JOB, VIDEO_TOKENIZER = (
    ROOT / f"yaml_configs/{kind}/tiny.yaml" for kind in ("pretrain", "tokenize_shards", "pretrain_tokenizer")
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv("SCRATCH", "/scratch/$HOME")  # what is filled in is not read again
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("~/runs", "/me/runs"), ("~", "/me"), ("$SCRATCH/runs", "/scratch/$HOME/runs"),
        ("a/${SCRATCH}b", "a//scratch/$HOMEb"), ("a~b", "a~b"), ("./~x", "./~x"), ("5$", "5$"), ("$5", "$5"),
        ("/a b/#1: [x]", "/a b/#1: [x]"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_filled_in(text: str, result: str) -> None:
    assert expanded(text) == result


@pytest.mark.parametrize("text", ["$UNSET/x", "a/${UNSET}", "$EMPTY/x", "${SCRATCH:-/tmp}", "$(pwd)", "~nobody-of-this-name/x"])
def test_what_cannot_be_filled_in(text: str) -> None:
    with pytest.raises(ConfigError):
        expanded(text)


@pytest.mark.parametrize(
    ("run", "key"),
    [
        (PRETRAIN, "run.root"), (PRETRAIN, "data.manifest"), (PRETRAIN, "text.model"), (PRETRAIN, "video_tokenizer.weights"),
        (PRETRAIN, "tracking.uri"), (JOB, "data.out"), (JOB, "data.video_shards"), (JOB, "video_tokenizer.weights"),
        (VIDEO_TOKENIZER, "data.video_shards"), (VIDEO_TOKENIZER, "loss.perceptual.weights"),
    ],
)  # fmt: skip
def test_every_path_is_filled_in_from_the_command_line_and_from_yaml(tmp_path: Path, run: Path, key: str) -> None:
    *sections, name = key.split(".")
    text = f"base: {run}\n" + "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
    (tmp_path / "run.yaml").write_text(text + f"{'  ' * len(sections)}{name}: ~/x\n")
    for settings in (load_settings(run, [f"{key}=~/x"]), load_settings(tmp_path / "run.yaml")):
        found: object = settings
        for part in key.split("."):
            found = getattr(found, part)
        assert found == "/me/x"
    with pytest.raises(ConfigError, match=rf"tiny\.yaml: '{key}': \$UNSET "):
        load_settings(run, [f"{key}=$UNSET/x"])


def test_a_run_is_named_after_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "0012")
    assert load_settings_as(PretrainRun, PRETRAIN, ["run.name=$SLURM_JOB_ID"]).run.name == "0012"


@pytest.mark.parametrize(("run", "key"), [(PRETRAIN, "run.root"), (JOB, "data.out")])
@pytest.mark.parametrize("url", ["s3://b/t", "gs://b", "file:///x", "HF://x"])
def test_what_is_written_is_no_url(run: Path, key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}': .*{url}"):
        load_settings(run, [f"{key}={url}"])
    assert load_settings_as(TokenizeRun, JOB, [f"data.video_shards={url}"]).data.video_shards == url
