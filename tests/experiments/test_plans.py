"""Every command line of every experiment is one that its program takes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from experiments import drawn, grouped_information, grouped_training, hierarchy_lm, temporal
from experiments.__main__ import NAMES, describe, main, module
from experiments.lab import Lab, Step, level, scaled
from experiments.tables import RESULTS
from hitvideo.commands.cli import parsed
from hitvideo.hierarchy import Hierarchy
from hitvideo.planning.flops import meta_model, training_flops_per_row
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun, load_settings, load_settings_as
from hitvideo.video_tokenizer.model import VideoTokenizer
from tests.conftest import ROOT

PROGRAMS = {"pretrain.video_tokenizer": "video_tokenizer", "tokenize_shards": "tokenize_shards", "pretrain": "pretrain"}


def steps(name: str, lab: Lab) -> list[Step]:
    return [step for steps in module(name).plan(lab) for step in steps]


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_taken_by_its_program(tmp_path: Path, name: str, scale: float) -> None:
    found = steps(name, Lab(tmp_path, 2, scale, clips="videos"))
    for step in found:
        if step.program in PROGRAMS:
            run = load_settings(*step.words[:1], step.words[1:])
            assert run.program == PROGRAMS[step.program]
            assert run.run.directory.is_relative_to(tmp_path)
            if isinstance(run, VideoTokenizerRun):  # builds the network's shape: widths and steps agree
                import torch

                with torch.device("meta"):
                    VideoTokenizer(run.video_tokenizer, run.hierarchy)
            if isinstance(run, PretrainRun):
                meta_model(run)
        elif step.program == "hitvideo":
            parsed(list(step.words))
        elif step.program == "experiments.grouped_training":
            words = grouped_training.parser().parse_intermixed_args(step.words)
            assert load_settings(words.config, words.overrides).run.directory.is_relative_to(tmp_path)
        elif step.program == "experiments.grouped_information":
            grouped_information.parser().parse_args(step.words)
        else:
            assert step.program == "experiments.drawn"
            drawn.parser().parse_args(step.words)
        assert step.done.is_relative_to(tmp_path)
    assert len({step.done for step in found}) == len(found), "two steps have one result"
    assert any(step.prints for step in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_comes_after_what_it_reads(tmp_path: Path, name: str) -> None:
    made: set[Path] = set()
    for round_ in module(name).plan(Lab(tmp_path, 1, 1.0, clips="videos")):
        for step in round_:
            here = re.escape(str(tmp_path))
            reads = rf"(?:--run |--video-shards |--manifest |weights=|video_shards=|manifest=)({here}\S+)"
            read = re.findall(reads, " ".join(step.words))
            for path in map(Path, read):
                assert any(path.is_relative_to(done.parent) for done in made), f"{step.name} reads {path} too soon"
        made |= {step.done for step in round_}


@pytest.mark.parametrize("name", NAMES)
def test_results_have_the_markers_of_every_table(name: str) -> None:
    text = RESULTS.read_text()
    for table in module(name).TABLES:
        assert text.count(f"<!-- experiment: {table} -->") == 1, table


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == describe()
    assert all(re.search(rf"^{name}$", shown, re.MULTILINE) for name in NAMES)


def test_one_level_and_the_hierarchy_have_equal_bits_and_compute() -> None:
    bits = {name: Hierarchy.model_validate({"levels": levels}).bits_per_pixel for name, levels in hierarchy_lm.LEVELS.items()}
    assert bits["hierarchy"] == pytest.approx(bits["one-level"], rel=1e-12)
    spent = []
    for name in hierarchy_lm.LEVELS:
        run = hierarchy_lm.settings(name, *hierarchy_lm.words_of(name))
        spent.append(run.train.steps * training_flops_per_row(meta_model(run)))
    assert spent[0] == pytest.approx(spent[1], rel=1e-3)


def test_temporal_networks_are_of_one_size() -> None:
    import torch

    sizes, bits = [], []
    for frames in temporal.CELLS:
        config = ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml"
        run = load_settings_as(VideoTokenizerRun, config, temporal.words("shapes", frames))
        with torch.device("meta"):
            network = VideoTokenizer(run.video_tokenizer, run.hierarchy)
        blocks = [len(run.video_tokenizer.channels) * run.video_tokenizer.blocks]
        sizes.append((sum(p.numel() for p in network.parameters()), blocks))
        bits.append(run.hierarchy.bits_per_pixel)
        assert run.clip.frames >= 4 * frames
    assert len({tuple(blocks) for _, blocks in sizes}) == 1
    assert max(size for size, _ in sizes) / min(size for size, _ in sizes) < 1.25
    assert len(set(bits)) == 1


@pytest.mark.parametrize(("bits", "sub_bits"), [(9, None), (10, [5, 5]), (18, [9, 9]), (24, [8, 8, 8]), (28, [7, 7, 7, 7])])
def test_sub_codes(bits: int, sub_bits: list[int] | None) -> None:
    assert level((1, 2, 4), bits).get("sub_bits") == sub_bits


def test_scaled_steps() -> None:
    config = ROOT / "yaml_configs/pretrain_tokenizer/moving_shapes.yaml"
    assert scaled(config, [], 1.0) == []
    run = load_settings_as(VideoTokenizerRun, config, scaled(config, [], 0.1))
    assert [(phase.name, phase.steps) for phase in run.phases] == [("autoencoder", 60), ("all-levels", 990), ("whole", 250)]
    assert run.train.steps == 1300
    assert run.train.warmup_steps == 5
    assert run.phases[2].level_dropout == 0


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_trial_run_is_resumed_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real commands, of two steps each; the second time all are done; then one lost figure is measured again, alone."""
    monkeypatch.setattr(module("rope"), "VARIANTS", {name: module("rope").VARIANTS[name] for name in ("demo", "1d")})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["rope", "--out", str(tmp_path), "--seeds", "1", "--steps-scale", "0.002"]
    assert main(arguments) == 0
    out = tmp_path / "scale-0.002"
    results = (out / "RESULTS.md").read_text()
    assert "| 3D, aligned (the demo) |" in results
    assert "--steps-scale 0.002" in results
    figures = json.loads((out / "figures/demo-0-drawn.json").read_text())
    assert figures["videos"] == 8
    assert figures["rendered"]["counts"]["all_right"] == [8, 8]
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "RESULTS.md"}
    (out / "figures/1d-0-drawn.json").unlink()
    os.utime(out / "figures/demo-0-drawn.json", ns=(1, 1))
    assert main(arguments) == 0
    now = {path: path.stat().st_mtime_ns for path in kept}
    assert {path.name for path in kept if now[path] != kept[path]} == {"demo-0-drawn.json", "1d-0-drawn.json"}
    assert now[out / "figures/demo-0-drawn.json"] == 1, "a figure that was there was measured again"
    assert "| 3D, aligned (the demo) |" in (out / "RESULTS.md").read_text()


def test_levels_without_clips_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["levels", "--out", str(tmp_path)]) == 2
    assert "--clips" in capsys.readouterr().err
