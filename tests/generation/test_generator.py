"""A run generates from any folder, with the video tokenizer of its tokens or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hitvideo import config
from hitvideo.data.blend import Blend, open_tokens
from hitvideo.data.manifest import write_manifest
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.generation.bundle import write_bundle
from hitvideo.generation.generator import load_generator
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.model import LanguageModel
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.writer import RunWriter
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer import weights as weights_module
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer, weights_fingerprint
from pretrain.language_model_task import keep_video_tokenizer
from tests.conftest import ROOT
from tests.samples import make_token_shards, tiny_hierarchy

CPU = torch.device("cpu")
WORDS = ["llm.layers=1", "run.root=runs", "run.name=r", "data.manifest=tokens/manifest.json"]


def tokenizer_of(seed: int, out: Path) -> Path:
    """An untrained tiny video tokenizer."""
    hierarchy, clip = tiny_hierarchy()
    torch.manual_seed(seed)
    part = config.resolve(ROOT / "yaml_configs/parts/video_tokenizer/tiny.yaml")["video_tokenizer"]
    model = VideoTokenizer(VideoTokenizerSection(**{**part, "channels": (8, 12, 16), "blocks": 1}), hierarchy)
    save_video_tokenizer(model, out, clip)
    return out


def tokens_of(weights: Path, out: Path) -> None:
    """A manifest that says that this video tokenizer made its shards."""
    known = json.loads(make_token_shards(out, shards=1, per_shard=4).read_text())
    receipts = known.pop("shards")
    known["video_tokenizer"] = {"fingerprint": weights_fingerprint(weights), "weights": str(weights)}
    write_manifest(out, receipts, known)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a video tokenizer, tokens and a run whose settings name both by relative paths; it is left."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    tokens_of(tokenizer_of(1, project / "tokenizer"), project / "tokens")
    settings = load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/tiny.yaml", WORDS)
    run = RunWriter(settings, writer=True)
    TextTokenizer.train(["a red circle", "a blue square"], 300).save(run.text_tokenizer_file)
    run.weights.mkdir()
    save_file(LanguageModel(settings.llm, make_layout(settings)).state_dict(), run.model_file)
    keep_video_tokenizer(settings, open_tokens(settings.data), run)
    elsewhere = tmp_path / "elsewhere"  # with files of the same names from another project
    tokens_of(tokenizer_of(2, elsewhere / "tokenizer"), elsewhere / "tokens")
    monkeypatch.chdir(elsewhere)
    return project


def same_weights(run: Path, weights: Path, given: Path | None = None) -> bool:
    """Whether a run generates with these weights."""
    found = load_generator(run, CPU, given).video_tokenizer.state_dict()
    return all(tensor.equal(found[name]) for name, tensor in load_file(weights / "weights.safetensors").items())


def test_it_works_from_any_folder_moved_and_without_what_made_it(project: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(project / "tokenizer", tmp_path / "kept")
    assert same_weights(project / "runs/r", weights)
    (project / "runs/r").rename(tmp_path / "moved")
    shutil.rmtree(project)
    assert same_weights(tmp_path / "moved", weights)
    record = RunDirectory(tmp_path / "moved").video_tokenizer()
    assert record == (weights_fingerprint(weights), str(project / "tokenizer"))


def test_another_video_tokenizer_is_refused_with_both_fingerprints(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = project / "tokenizer", tmp_path / "elsewhere/tokenizer"
    pattern = rf"{weights_fingerprint(other)}.*{weights_fingerprint(own)}"
    with pytest.raises(ConfigError, match=pattern):
        load_generator(project / "runs/r", CPU, other)
    assert same_weights(project / "runs/r", own, shutil.copytree(own, tmp_path / "copy"))
    with pytest.raises(ConfigError, match=r"--video-tokenizer .*absent"):
        load_generator(project / "runs/r", CPU, tmp_path / "absent")
    copy = project / "runs/r/video_tokenizer/weights.safetensors"
    damaged = bytearray(copy.read_bytes())
    copy.unlink()  # a link: the original stays
    copy.write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    assert same_weights(project / "runs/r", own), "the one at the recorded path"
    assert f"{copy.parent} is damaged" in caplog.text
    shutil.rmtree(own)
    with pytest.raises(ConfigError, match=r"video tokenizer of fingerprint .* is not at .*video_tokenizer.*--video-tokenizer"):
        load_generator(project / "runs/r", CPU)


def test_a_run_on_a_blend_knows_its_video_tokenizer(project: Path) -> None:
    blend = Blend([TokenDataset(project / "tokens/manifest.json")], [1.0], 1)
    run = project / "runs/r"
    shutil.rmtree(run / "video_tokenizer")
    (run / "video_tokenizer.json").unlink()
    text = (run / "config.yaml").read_text()
    part = "manifest: null\n  blend:\n  - manifest: tokens/manifest.json\n    weight: 1.0"
    (run / "config.yaml").write_text(text.replace("manifest: tokens/manifest.json\n  blend: []", part))
    assert same_weights(run, project / "tokenizer"), "by the manifest"
    settings = RunDirectory(run).settings_as(PretrainRun)
    assert settings.data.blend
    writer = RunWriter(settings.model_copy(update={"run": settings.run.model_copy(update={"root": str(run.parent)})}), True)
    keep_video_tokenizer(settings, blend, writer)
    shutil.rmtree(project / "tokens")
    assert same_weights(run, project / "tokenizer")


def test_an_older_run_asks_its_own_manifest_and_no_other(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, own, other = project / "runs/r", project / "tokenizer", tmp_path / "elsewhere/tokenizer"
    shutil.rmtree(run / "video_tokenizer")
    (run / "video_tokenizer.json").unlink()
    assert same_weights(run, own)
    with pytest.raises(ConfigError, match=weights_fingerprint(own)):
        load_generator(run, CPU, other)
    run.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"manifest tokens/manifest\.json is not there.*--video-tokenizer"):
        load_generator(tmp_path / "moved", CPU)
    assert same_weights(tmp_path / "moved", own, own)
    assert "is not checked" in caplog.text


def test_large_weights_are_named_and_not_copied(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "MOST_KEPT_BYTES", 1000)
    run = RunDirectory(project / "runs/r")
    shutil.rmtree(run.video_tokenizer_copy)
    monkeypatch.chdir(project)
    settings = run.settings_as(PretrainRun)
    keep_video_tokenizer(settings, open_tokens(settings.data), RunWriter(settings, True))
    monkeypatch.chdir(tmp_path)
    assert not run.video_tokenizer_copy.exists()
    assert same_weights(run.path, project / "tokenizer")


def test_damage_is_named(project: Path) -> None:
    run = RunDirectory(project / "runs/r")
    whole = load_file(run.model_file)
    save_file({name: tensor for name, tensor in whole.items() if name != "level.weight"}, run.model_file)
    with pytest.raises(ConfigError, match=r"do not fit its config\.yaml.*level\.weight"):
        load_generator(run.path, CPU)
    run.model_file.write_bytes(run.model_file.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"model\.safetensors: damaged"):
        load_generator(run.path, CPU)
    for content in ("{", "[]", "{}", '{"fingerprint": 1}', '{"fingerprint": "x", "weights": []}'):
        run.video_tokenizer_file.write_text(content)
        with pytest.raises(ConfigError, match=r"video_tokenizer\.json: damaged"):
            load_generator(run.path, CPU)


def test_a_bundle_draws_what_its_run_draws(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the run, in another folder; no path of the machine that trained it goes along."""
    drawn = load_generator(project / "runs/r", CPU).codes(["a red circle"], Sampling())
    size = write_bundle(project / "runs/r", tmp_path / "out/bundle")
    assert size == sum(file.stat().st_size for file in (tmp_path / "out/bundle").rglob("*") if file.is_file())
    with pytest.raises(ConfigError, match="bundle exists"):
        write_bundle(project / "runs/r", tmp_path / "out/bundle")
    shutil.rmtree(project)
    for file in ("config.yaml", "README.md", "video_tokenizer.json"):
        assert str(tmp_path) not in (tmp_path / "out/bundle" / file).read_text()
    found = load_generator(tmp_path / "out/bundle", CPU).codes(["a red circle"], Sampling())
    assert all((one == other).all() for one, other in zip(drawn, found, strict=True))
    monkeypatch.setattr("hitvideo.runs.directory.SHOWCASE", (tmp_path / "out/bundle").rename(tmp_path / "showcase"))
    assert load_generator("showcase", CPU).text.model
    (tmp_path / "elsewhere/showcase").mkdir()
    (tmp_path / "elsewhere/showcase/config.yaml").write_text("{}")
    with pytest.raises(ConfigError):
        load_generator("showcase", CPU)  # a run of that name comes first


def test_a_bundle_in_bf16_and_one_that_fails(project: Path, tmp_path: Path) -> None:
    write_bundle(project / "runs/r", tmp_path / "small", torch.bfloat16)
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "small/weights/model.safetensors").values()}
    assert kinds == {torch.bfloat16}
    assert load_generator(tmp_path / "small", CPU).model.level.weight.dtype == torch.float32
    (project / "runs/r/text_tokenizer.model").unlink()
    with pytest.raises(ConfigError, match="text_tokenizer"):
        write_bundle(project / "runs/r", tmp_path / "broken")
    assert not [path for path in tmp_path.iterdir() if "broken" in path.name]
