"""Writing a run directory: what may change when a run continues, and what a kill leaves."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from hitvideo.checkpoints.listing import FORMAT, STATE_FILE, Fingerprint, state_digest
from hitvideo.errors import ConfigError
from hitvideo.metrics.lpips import HEADS_FILE, TRUNK_FILE
from hitvideo.runs.changes import allowed_changes, read_lines
from hitvideo.runs.directory import read_metrics
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun, load_settings_as
from tests.conftest import ROOT
from tests.runs.helpers import settings


def test_a_new_directory(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    assert run.path == tmp_path / "r"
    assert load_settings_as(PretrainRun, run.path / "config.yaml") == settings(tmp_path)
    assert abs(float((run.path / "started").read_text()) - time.time()) < 60
    assert not run.done
    run.mark_done(7)
    assert run.done


def test_readers_write_nothing(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=False)
    run.append_metrics({"step": 1})
    run.mark_done(1)
    assert list(tmp_path.iterdir()) == []


ONE_LEVEL = "hierarchy.levels=[{down: [8, 8, 8], num_bits: 9}]"
OTHER = ["train.lr=1e-5", "llm.layers=2", "run.seed=1", "train.global_batch=64", "train.dtype=bf16", "text.window=9", ONE_LEVEL]


def begun(tmp_path: Path, *words: str) -> RunWriter:
    """A run that has taken a step."""
    run = RunWriter(settings(tmp_path, *words), writer=True)
    run.append_metrics({"step": 1, "loss": 1.0})
    return run


@pytest.mark.parametrize("word", OTHER)
def test_other_settings_are_refused(tmp_path: Path, word: str) -> None:
    begun(tmp_path)
    before = (tmp_path / "r/config.yaml").read_text()
    with pytest.raises(ConfigError, match=f"r holds a run with {word.partition('=')[0]}: .*choose another run.name"):
        RunWriter(settings(tmp_path, word), writer=True)
    assert (tmp_path / "r/config.yaml").read_text() == before


FREE = ["train.steps=9000", "parallel.zero_stage=1", "train.micro_batch=4", "checkpoint.every=5", "tracking.enabled=false"]


@pytest.mark.parametrize("word", FREE)
def test_what_does_not_change_a_step_may_change(tmp_path: Path, word: str) -> None:
    started = begun(tmp_path).path / "started"
    before = started.read_text()
    RunWriter(settings(tmp_path, word), writer=True)
    assert load_settings_as(PretrainRun, tmp_path / "r/config.yaml") == settings(tmp_path, word)
    assert started.read_text() == before


@pytest.mark.parametrize("word", ["data.caption_dropout=0.9", "data.block=8", "data.validation_samples=5"])
def test_data_settings_that_change_the_rows_are_refused(tmp_path: Path, word: str) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match="holds a run with data"):
        RunWriter(settings(tmp_path, word), writer=True)


def changes(run: RunWriter) -> list[tuple[object, ...]]:
    return [(row["key"], row["old"], row["new"], row["step"]) for row in read_lines(run.changes)]


def test_what_is_allowed_changes_and_is_recorded(tmp_path: Path) -> None:
    run = begun(tmp_path, "train.lr=0.5")
    checkpoint_of(run, 7, "data-1", samples=7)
    new = settings(tmp_path, "train.lr=0.25", "train.clip=2", "train.steps=12", "checkpoint.every=3")
    with pytest.raises(ConfigError, match=r"--allow-change train\.clip --allow-change train\.lr"):
        RunWriter(new, writer=True)
    with pytest.raises(ConfigError, match=r"train\.clip: 1\.0, this one has 2\.0; .*--allow-change train\.clip,"):
        RunWriter(new, writer=True, allowed=["train.lr"])
    assert changes(run) == []
    for _ in range(2):
        RunWriter(new, writer=True, allowed=["train.lr", "train.clip"])
        assert load_settings_as(PretrainRun, run.config) == new
        rows = [("train.clip", 1.0, 2.0, 7), ("train.lr", 0.5, 0.25, 7), ("train.steps", settings(tmp_path).train.steps, 12, 7)]
        assert changes(run) == rows
    RunWriter(new, writer=True)


def test_before_the_first_step_nothing_has_changed(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    RunWriter(settings(tmp_path, "train.lr=0.25"), writer=True, allowed=["train.lr"])
    assert changes(run) == []


@pytest.mark.parametrize("key", ["llm.layers", "run.seed", "text.window", "hierarchy.levels", "data.read_together"])
def test_what_makes_another_run_is_not_allowed(tmp_path: Path, key: str) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match=rf"--allow-change {key}: .*train\.start_from"):
        RunWriter(settings(tmp_path), writer=True, allowed=[key])


def test_a_key_that_does_not_exist_is_not_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.lrr: no such key; did you mean train\.lr\?"):
        RunWriter(settings(tmp_path), writer=True, allowed=["train.lrr"])
    assert not (tmp_path / "r").exists()


def test_a_batch_may_change_once_samples_are_counted(tmp_path: Path) -> None:
    run = begun(tmp_path, "train.global_batch=8")
    checkpoint_of(run, 2, "data-1")
    new, data = settings(tmp_path, "train.global_batch=16"), Fingerprint("data-1", "")
    with pytest.raises(ConfigError, match="did not count samples"):
        RunWriter(new, True, data, ["train.global_batch"])
    checkpoint_of(run, 3, "data-1", samples=24)
    RunWriter(new, True, data, ["train.global_batch"])
    assert changes(run) == [("train.global_batch", 8, 16, 3)]


def test_the_option_may_be_anywhere_on_the_command_line() -> None:
    words = ["RUN.yaml", "--allow-change", "train.lr", "train.lr=1", "--allow-change=train.clip", "-h"]
    assert allowed_changes(words) == (["RUN.yaml", "train.lr=1", "-h"], ["train.lr", "train.clip"])


def test_manifest_and_video_tokenizer_may_move(tmp_path: Path) -> None:
    begun(tmp_path, "data.manifest=here/manifest.json", "video_tokenizer.weights=here/weights")
    RunWriter(settings(tmp_path, "data.manifest=there/manifest.json"), writer=True)


def test_a_moved_text_tokenizer_is_known_by_its_content(tmp_path: Path) -> None:
    for name, content in {"a": b"same", "b": b"same", "c": b"other"}.items():
        (tmp_path / f"{name}.model").write_bytes(content)
    run = begun(tmp_path, f"text.model={tmp_path}/a.model")
    run.text_tokenizer_file.write_bytes(b"same")
    RunWriter(settings(tmp_path, f"text.model={tmp_path}/b.model"), writer=True)
    for other in ("c", "absent"):
        with pytest.raises(ConfigError, match=r"text\.model: .*b\.model, this one has"):
            RunWriter(settings(tmp_path, f"text.model={tmp_path}/{other}.model"), writer=True)


def test_the_message_names_the_key_both_values_and_what_may_change(tmp_path: Path) -> None:
    begun(tmp_path, "train.lr=0.5")
    with pytest.raises(ConfigError, match=r"train\.lr: 0\.5, this one has 0\.25.*train\.steps.*parallel\.") as refused:
        RunWriter(settings(tmp_path, "train.lr=0.25"), writer=True)
    assert "differ)" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"llm\.layers: .*\(and train\.lr differ\)"):
        RunWriter(settings(tmp_path, "train.lr=0.25", "llm.layers=2"), writer=True)


def test_a_run_older_than_a_key_is_one_with_its_default(tmp_path: Path) -> None:
    config = begun(tmp_path).config
    lines = config.read_text().splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.strip() == "ema: 0.0"]
    config.write_text("\n".join(lines[:place] + lines[place + 1 :]))
    with pytest.raises(ConfigError, match=r"train\.ema: 0\.0, this one has 0\.5"):
        RunWriter(settings(tmp_path, "train.ema=0.5"), writer=True)
    RunWriter(settings(tmp_path), writer=True)
    assert "ema: 0.0" in config.read_text()


@pytest.mark.parametrize(("share", "word"), [(0.0, "empty"), (0.3, "cut"), (0.7, "cut")])
def test_a_damaged_config_is_called_that(tmp_path: Path, share: float, word: str) -> None:
    config = begun(tmp_path).config
    content = config.read_bytes()[: int(share * config.stat().st_size)]
    config.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"config\.yaml is {word}"):
        RunWriter(settings(tmp_path), writer=True)
    assert config.read_bytes() == content


def test_a_run_of_another_program_is_named_first(tmp_path: Path) -> None:
    RunWriter(settings(tmp_path), writer=True)
    other = ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml"
    with pytest.raises(ConfigError, match=r"is a run of 'python -m pretrain'"):
        RunWriter(load_settings_as(VideoTokenizerRun, other, [f"run.root={tmp_path}", "run.name=r"]), writer=True)


@pytest.mark.parametrize("damage", [None, b"", b"train: [", b"\xff"])
def test_a_start_that_took_no_step_gives_way_to_other_settings(tmp_path: Path, damage: bytes | None) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    made = [run.text_tokenizer_file, run.video_tokenizer_file, run.mlflow_run_id, run.video_tokenizer_copy / "weights"]
    run.video_tokenizer_copy.mkdir()
    for file in made:
        file.touch()
    (run.checkpoints / "step-00000001.partial-1").mkdir()  # killed while it saved
    if damage is not None:
        run.config.write_bytes(damage)
    RunWriter(settings(tmp_path, "train.lr=1e-5"), writer=True)
    assert load_settings_as(PretrainRun, run.config).train.lr == 1e-5
    assert not any(file.exists() for file in made), "what the old settings made"


def checkpoint_of(run: RunWriter, step: int, fingerprint: str, **more: int) -> None:
    path = run.checkpoints / f"step-{step:08d}"
    path.mkdir()
    state = {"format": FORMAT, "step": step, "world": 1, "tensor": 1, "parameters": {}, "fingerprint": fingerprint, **more}
    (path / STATE_FILE).write_text(json.dumps({**state, "sha256": state_digest(state)}))


def test_other_data_are_refused_and_the_settings_kept(tmp_path: Path) -> None:
    run = begun(tmp_path, "data.manifest=/old/manifest.json")
    checkpoint_of(run, 2, "data-1")
    (run.checkpoints / "step-00000003").mkdir()
    (run.checkpoints / "step-00000003/state.json").write_text("{")  # damaged: resuming passes over it
    before = run.config.read_text()
    larger = settings(tmp_path, "data.manifest=/new/manifest.json")
    with pytest.raises(ConfigError, match=r"data\.manifest /new/manifest\.json \(fingerprint data-1, now data-2\).*run\.name"):
        RunWriter(larger, True, Fingerprint("data-2", "b"))
    assert run.config.read_text() == before
    RunWriter(larger, True, Fingerprint("data-1", "b"))
    RunWriter(larger, True, Fingerprint("data-9", "data-1"))  # as an older version wrote it
    assert changes(run) == []


def test_other_data_are_allowed_and_recorded_until_the_next_change(tmp_path: Path) -> None:
    run = begun(tmp_path, "data.manifest=/a.json")
    checkpoint_of(run, 2, "data-1")
    other, first = settings(tmp_path, "data.manifest=/b.json"), settings(tmp_path, "data.manifest=/a.json")
    with pytest.raises(ConfigError, match=r"--allow-change data\.manifest"):
        RunWriter(other, True, Fingerprint("data-2", ""))
    RunWriter(other, True, Fingerprint("data-2", ""), ["data.manifest"])
    RunWriter(other, True, Fingerprint("data-2", ""))  # killed before its first checkpoint with these data
    assert changes(run) == [("data.manifest", "/a.json", "/b.json", 2)]
    with pytest.raises(ConfigError, match="fingerprint data-2, now data-1"):
        RunWriter(first, True, Fingerprint("data-1", ""))
    RunWriter(first, True, Fingerprint("data-1", ""), ["data.manifest"])
    assert [row["data"] for row in read_lines(run.changes)] == ["data-2", "data-1"]


def test_a_done_run_that_goes_on_is_not_done(tmp_path: Path) -> None:
    run = begun(tmp_path, "train.steps=500")
    checkpoint_of(run, 500, "data-1")
    run.mark_done(500)
    RunWriter(settings(tmp_path, "train.steps=500"), writer=True)
    assert run.done
    RunWriter(settings(tmp_path, "train.steps=501"), writer=True)
    assert not run.done


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 8)]
    for row in rows:
        run.append_metrics(row)
    assert logged(run) == rows
    run.forget_metrics_after(4)
    assert logged(run) == rows[:4]
    run.append_metrics({"step": 5, "loss": 9.0})
    assert logged(run) == [*rows[:4], {"step": 5, "loss": 9.0}]
    run.forget_metrics_after(0)
    assert logged(run) == []


def logged(run: RunWriter) -> list[dict[str, float]]:
    """The rows that count, without the moment and the number of the start that wrote them."""
    rows = read_metrics(run.metrics_file)
    assert all(abs(row["time"] - time.time()) < 60 and row["attempt"] == 1 for row in rows)
    return [{key: value for key, value in row.items() if key not in ("time", "attempt")} for row in rows]


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_torn_last_line(tmp_path: Path, cut: int) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 0.5})
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2  # only the line's end is missing: the row is all there
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3][:whole]
    run.forget_metrics_after(2)  # as resuming does, before it appends
    run.append_metrics({"step": 3, "loss": 0.25})
    assert logged(run)[2:] == [{"step": 3, "loss": 0.25}]


def test_the_next_start_forgets_the_stop_file(tmp_path: Path) -> None:
    path = RunWriter(settings(tmp_path), writer=True).path
    (path / "STOP").touch()
    RunWriter(settings(tmp_path), writer=True)
    assert not (path / "STOP").exists()


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    run.append_metrics({"step": 1, "loss": 0.1})
    (row,) = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert (row["step"], row["loss"]) == (1, 0.1)


def test_lpips_weights_may_move_but_not_change(tmp_path: Path) -> None:
    """They are known by their content, from the first start on."""
    for name, content in {"here": b"same", "there": b"same", "other": b"other"}.items():
        (tmp_path / name).mkdir()
        for file in (TRUNK_FILE, HEADS_FILE):
            (tmp_path / name / file).write_bytes(content)

    def start(place: str) -> RunWriter:
        words = [f"run.root={tmp_path}", "run.name=v", f"loss.perceptual.weights={tmp_path / place}"]
        yaml = ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml"
        return RunWriter(load_settings_as(VideoTokenizerRun, yaml, words), writer=True)

    start("here").append_metrics({"step": 1, "loss": 1.0})
    start("there")
    shutil.rmtree(tmp_path / "there")
    start("here")
    for place in ("other", "absent"):
        with pytest.raises(ConfigError, match=r"v holds a run with loss\.perceptual\.weights: .*/here"):
            start(place)
