"""The tokenizer's program: learns, resumes bit-equal, and its layouts agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from hitvideo.checkpoints.reader import Reader
from hitvideo.data.pack import write_moving_shapes
from hitvideo.errors import ConfigError
from hitvideo.runs.directory import read_metrics
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.video_tokenizer.objective import load_perceptual
from hitvideo.video_tokenizer.weights import load_video_tokenizer
from pretrain.video_tokenizer import main
from pretrain.video_tokenizer_task import clip_cost
from tests.pretrain.runs import TOKENIZER, TOKENIZER_WORDS
from tests.samples import tiny_hierarchy, write_lpips_weights
from tests.worlds import run_ranks


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("videos") / "shards"
    write_moving_shapes(out, 40, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=20)
    return out


def train(tmp_path: Path, shards: Path, name: str, world: int = 1, *extra: str) -> list[dict[str, float]]:
    words = [TOKENIZER, f"data.video_shards={shards}", f"run.root={tmp_path}", f"run.name={name}", *TOKENIZER_WORDS, *extra]
    assert run_ranks(main, world, words) == [0] * world
    return read_metrics(tmp_path / name / "metrics.jsonl")


@pytest.mark.parametrize("phased", [False, True])
def test_it_learns_resumes_bit_equal_and_leaves_weights_that_load(tmp_path: Path, shards: Path, phased: bool) -> None:
    extra = [PHASES] if phased else []
    straight = train(tmp_path, shards, "straight", 1, *extra)
    assert straight[-1]["l2"] < straight[0]["l2"]
    assert {f"validation_psnr_first_{k}" for k in (1, 2, 3, 4)} <= straight[-1].keys()
    copy = tmp_path / "again"
    shutil.copytree(tmp_path / "straight", copy)
    (copy / "DONE").unlink()
    shutil.rmtree(copy / "weights")
    shutil.rmtree(copy / "checkpoints/step-00000008")
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("name: straight", "name: again"))
    again = train(tmp_path, shards, "again", 1, *extra)
    keys = ("step", "loss", "l1", "l2", "grad_norm", "validation_psnr_first_4")
    assert [[row.get(k) for k in keys] for row in again] == [[row.get(k) for k in keys] for row in straight]
    one, other = (load_video_tokenizer(tmp_path / name / "weights")[0].state_dict() for name in ("straight", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


ADVERSARIAL = [
    "loss.adversarial={weight: 0.2, channels: 8, layers: 2}", "checkpoint.every=2", "checkpoint.keep_last=9",
    "phases=[{name: all-levels, steps: 4}, {name: sharp, steps: 4, adversarial: true, train: decoder, size: [48, 64]}]",
]  # fmt: skip


@pytest.mark.parametrize(("stage", "world"), [(1, 1), (2, 2), (3, 2)])
def test_the_adversarial_phase(tmp_path: Path, shards: Path, stage: int, world: int) -> None:
    """The decoder alone learns, on larger clips, from a discriminator that learns too; encoder and codes keep their weights."""
    extra = [*ADVERSARIAL, f"parallel.zero_stage={stage}", "train.weight_decay=0.1"]
    rows = train(tmp_path, shards, "sharp", world, *extra)
    assert ["discriminator" in row for row in rows] == [False] * 4 + [True] * 4
    assert all(row["adversarial_ratio"] > 0 for row in rows[4:])
    readers = {step: Reader(tmp_path / f"sharp/checkpoints/step-{step:08d}") for step in (2, 4, 6)}
    moved = {name: not torch.equal(readers[4].full(name), readers[6].full(name)) for name in readers[4].names}
    for name, has_moved in moved.items():
        part = name.split(".")[1] if name.startswith("video_tokenizer") else "discriminator"
        assert has_moved == (part in ("decoder", "discriminator")), name
        if part == "discriminator":
            assert torch.equal(readers[2].full(name), readers[4].full(name)), f"{name} moved before its phase"
    state = readers[6].state["job"]["lecam"]
    assert state != [0, 0]
    exported = load_video_tokenizer(tmp_path / "sharp/weights")[0]
    assert exported.encode(torch.zeros(1, 3, 8, 64, 96))[-1].shape == (1, 2, 16, 24)


@pytest.mark.parametrize(("stage", "world", "dtype"), [(0, 1, "fp32"), (1, 2, "bf16"), (2, 2, "fp32"), (3, 2, "fp32")])
def test_the_discriminator_has_its_own_clip_and_learning_rate(
    tmp_path: Path, shards: Path, stage: int, world: int, dtype: str
) -> None:
    """Adam's first moment after one step is 0.1 of the clipped gradient; a step moves no weight by much more than the rate."""
    game = "loss.adversarial={weight: 0.2, channels: 8, layers: 2, clip: 1e-3, lr: 1e-5}"
    phases = "phases=[{name: sharp, steps: 2, adversarial: true, lr: 1e-3}]"
    words = [game, phases, "train.steps=2", "train.warmup_steps=0", "train.clip=0.01", "checkpoint.every=1"]
    rows = train(tmp_path, shards, "apart", world, *words, f"parallel.zero_stage={stage}", f"train.dtype={dtype}")
    assert min(row["grad_norm"] for row in rows) > 0.01
    first, second = (Reader(tmp_path / f"apart/checkpoints/step-{step:08d}") for step in (1, 2))
    norms, moved = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for name in first.names:
        judge = name.startswith("discriminator")
        norms[judge] += first.full(name, "exp_avg").square().sum().item()
        moved[judge] = max(moved[judge], (second.full(name) - first.full(name)).abs().max().item())
    assert norms[True] ** 0.5 == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert norms[False] ** 0.5 == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert 1e-6 < moved[True] < 3e-5
    assert moved[False] > 1e-4


def test_a_kill_in_the_adversarial_phase_changes_nothing(tmp_path: Path, shards: Path) -> None:
    straight = train(tmp_path, shards, "game", 1, *ADVERSARIAL)
    directory = tmp_path / "game"
    weights = load_video_tokenizer(directory / "weights")[0].state_dict()
    (directory / "DONE").unlink()
    shutil.rmtree(directory / "checkpoints/step-00000008")
    assert train(tmp_path, shards, "game", 1, *ADVERSARIAL)[-1]["loss"] == straight[-1]["loss"]
    again = load_video_tokenizer(directory / "weights")[0].state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_no_lpips_weights_is_said(tmp_path: Path, shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings_as(VideoTokenizerRun, TOKENIZER, [f"data.video_shards={shards}", "loss.perceptual.weight=1"])
    assert load_perceptual(settings, torch.device("cpu")) is None
    assert "WITHOUT the perceptual loss" in caplog.text


def test_lpips_counts_where_its_weights_are_given(tmp_path: Path, shards: Path) -> None:
    write_lpips_weights(tmp_path / "lpips")
    words = [f"loss.perceptual={{weight: 0.5, weights: '{tmp_path / 'lpips'}'}}", "train.steps=1", "loss.unquantized_until=0"]
    words += ["loss.entropy=0.03"]  # of all levels alike, so that their mean says all
    row = train(tmp_path, shards, "near", 1, *words)[0]
    codes = 0.03 * row["entropy"] + 0.25 * (row["commitment"] + row["residual"])
    assert row["perceptual"] > 0
    assert row["loss"] == pytest.approx(0.2 * row["l1"] + 4 * row["l2"] + 0.5 * row["perceptual"] + codes, rel=1e-4)


PHASES = (
    "phases=[{name: autoencoder, steps: 2, quantized: false}, {name: coarse, steps: 2, levels: 2, lr: 1e-3}, "
    "{name: all-levels, steps: 2}, {name: decoder, steps: 2, train: decoder}]"
)


def parts(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A checkpoint's weights by part of the tokenizer."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in Reader(path).weights(torch.float32):
        found.setdefault(name.split(".")[1], {})[name] = tensor
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", [1, 3])
def test_phases_train_what_they_say(tmp_path: Path, shards: Path, stage: int) -> None:
    extra = [PHASES, "checkpoint.every=2", "checkpoint.keep_last=9", "train.weight_decay=0.1", f"parallel.zero_stage={stage}"]
    rows = train(tmp_path, shards, "phases", 1, *extra)
    assert [row["phase"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    # Without codes' losses and with every clip unquantised, the loss is that of the pixels alone.
    assert rows[0]["loss"] == pytest.approx(0.2 * rows[0]["l1"] + 4 * rows[0]["l2"], rel=1e-5)
    assert rows[2]["loss"] != pytest.approx(0.2 * rows[2]["l1"] + 4 * rows[2]["l2"], rel=1e-3)
    assert rows[2]["lr"] == pytest.approx(1e-3 / 2), "a phase has its own warm-up and peak"
    steps = [parts(tmp_path / f"phases/checkpoints/step-{step:08d}") for step in (2, 4, 6, 8)]
    assert not same(steps[1]["encoder"], steps[2]["encoder"])
    for part in ("encoder", "quantizer"):
        assert same(steps[2][part], steps[3][part]), f"{part} moved while only the decoder was to learn"
    assert not same(steps[2]["decoder"], steps[3]["decoder"])


@pytest.mark.parametrize(("stage", "world"), [(1, 1), (1, 2), (3, 2)])
def test_the_average_of_the_weights(tmp_path: Path, shards: Path, stage: int, world: int) -> None:
    """By hand from the weights after every step; it is what `weights/` holds, and a resumed run goes on with it."""
    extra = ["train.ema=0.4", "checkpoint.every=1", "checkpoint.keep_last=9", f"parallel.zero_stage={stage}"]
    train(tmp_path, shards, "averaged", world, *extra)
    readers = [Reader(tmp_path / f"averaged/checkpoints/step-{step:08d}") for step in range(1, 9)]
    name = "video_tokenizer.decoder.first.conv.weight"
    average = readers[0].full(name, "ema")
    for step, reader in enumerate(readers[1:], start=2):
        decay = min(0.4, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * reader.full(name)
        torch.testing.assert_close(reader.full(name, "ema"), average, rtol=0, atol=1e-7)
    exported = load_video_tokenizer(tmp_path / "averaged/weights")[0].state_dict()
    assert torch.equal(exported[name.removeprefix("video_tokenizer.")], readers[-1].full(name, "ema"))
    assert not torch.equal(readers[-1].full(name, "ema"), readers[-1].full(name))
    if world == 1:
        copy = tmp_path / "again"
        shutil.copytree(tmp_path / "averaged", copy)
        (copy / "DONE").unlink()
        for step in range(6, 9):
            shutil.rmtree(copy / f"checkpoints/step-{step:08d}")
        (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("name: averaged", "name: again"))
        train(tmp_path, shards, "again", world, *extra)
        resumed = Reader(copy / "checkpoints/step-00000008")
        assert all(torch.equal(resumed.full(n, "ema"), readers[-1].full(n, "ema")) for n in resumed.names)


def test_an_average_starts_from_a_checkpoint_without_one(tmp_path: Path, shards: Path) -> None:
    words = ["train.lr=1e-9", "checkpoint.every=4", "checkpoint.keep_last=9"]
    train(tmp_path, shards, "late", 1, *words)
    directory = tmp_path / "late"
    (directory / "DONE").unlink()
    (directory / "config.yaml").unlink()
    shutil.rmtree(directory / "checkpoints/step-00000008")
    train(tmp_path, shards, "late", 1, *words, "train.ema=0.5")
    end = Reader(directory / "checkpoints/step-00000008")
    torch.testing.assert_close(end.full(end.names[0], "ema"), end.full(end.names[0]), rtol=0, atol=1e-6)


def test_wrong_phases_are_explained(tmp_path: Path) -> None:
    words = [f"run.root={tmp_path}", "data.video_shards=x"]
    with pytest.raises(ConfigError, match=r"the phases have 8 steps in all, train.steps is 9; make them equal"):
        load_settings_as(VideoTokenizerRun, TOKENIZER, [*words, PHASES, "train.steps=9"])
    phases = "phases=[{name: coarse, steps: 8, levels: 5}]"
    with pytest.raises(ConfigError, match=r"phase 'coarse' uses 5 levels, the hierarchy has 4"):
        load_settings_as(VideoTokenizerRun, TOKENIZER, [*words, phases, "train.steps=8"])
    phases = "phases=[{name: sharp, steps: 8, adversarial: true}]"
    with pytest.raises(ConfigError, match=r"phase 'sharp' is adversarial, loss.adversarial.weight is 0"):
        load_settings_as(VideoTokenizerRun, TOKENIZER, [*words, phases, "train.steps=8"])
    with pytest.raises(ConfigError, match=r"loss.adversarial.weight is above 0, no phase is adversarial"):
        load_settings_as(VideoTokenizerRun, TOKENIZER, [*words, "loss.adversarial.weight=0.2"])
    phases = "phases=[{name: large, steps: 8, size: [40, 64]}]"
    with pytest.raises(ConfigError, match=r"phase 'large': size \[40, 64\]: height 40 is not a multiple of 16"):
        load_settings_as(VideoTokenizerRun, TOKENIZER, [*words, phases, "train.steps=8"])


def test_a_decoder_phase_leaves_the_exported_encoder_and_survives_a_kill(tmp_path: Path, shards: Path) -> None:
    """With an average of the weights: the encoder's is what is exported, and what the decoder learns from."""
    words = ["train.ema=0.9", "checkpoint.every=2", "checkpoint.keep_last=9", "train.clip=0.1", "train.weight_decay=0.1"]
    extra = [*words, "phases=[{name: all-levels, steps: 4}, {name: decoder, steps: 4, train: decoder}]"]
    straight = train(tmp_path, shards, "straight", 1, *extra)
    assert ["entropy" in row for row in straight] == [True] * 4 + [False] * 4
    before, during, end = (Reader(tmp_path / f"straight/checkpoints/step-{step:08d}") for step in (4, 6, 8))
    for name in end.names:
        still = not name.startswith("video_tokenizer.decoder.")
        assert torch.equal(before.full(name, "ema"), end.full(name, "ema")) == still, name
        assert torch.equal(during.full(name), during.full(name, "ema")) == still, name
    exported = load_video_tokenizer(tmp_path / "straight/weights")[0].encoder.state_dict()
    assert all(torch.equal(exported[n], before.full(f"video_tokenizer.encoder.{n}", "ema")) for n in exported)
    for step in (2, 4, 6):
        copy = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "straight", copy)
        (copy / "DONE").unlink()
        for later in range(step + 2, 9, 2):
            shutil.rmtree(copy / f"checkpoints/step-{later:08d}")
        (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("name: straight", f"name: from-{step}"))
        again = train(tmp_path, shards, f"from-{step}", 1, *extra)
        assert [row["loss"] for row in again] == [row["loss"] for row in straight]
        resumed = Reader(copy / "checkpoints/step-00000008")
        for kind in ("fp32", "ema", "exp_avg", "exp_avg_sq"):
            assert all(torch.equal(resumed.full(name, kind), end.full(name, kind)) for name in end.names), (step, kind)


PARITY = [
    "train.steps=6", "loss.level_dropout=0.5", "loss.entropy=0.1", "loss.adversarial={weight: 0.2, channels: 8, layers: 2}",
    "phases=[{name: all-levels, steps: 3}, {name: sharp, steps: 3, adversarial: true}]", "train.clip=0.5", "train.lr=1e-3",
    "train.warmup_steps=0",
]  # fmt: skip
LAYOUTS = {
    "two ranks": (2, "train.micro_batch=4"),
    "two micro-batches": (1, "train.micro_batch=4"),
    "two of each": (2, "train.micro_batch=2 parallel.zero_stage=3 parallel.activation_checkpointing=selective"),
    "no stage": (2, "train.micro_batch=4 parallel.zero_stage=0"),
}


def test_every_layout_gives_the_numbers_of_one_process(tmp_path: Path, shards: Path) -> None:
    """Entropy, prefixes, discriminator and its clip: every loss and the norm, with 1 and 2 ranks and micro-batches each."""
    words = [*PARITY, "loss.perceptual={weight: 0.1, frames: 3, weights: '" + str(tmp_path / "lpips") + "'}"]
    write_lpips_weights(tmp_path / "lpips")
    one = train(tmp_path, shards, "one", 1, *words, "train.micro_batch=8")
    assert max(row["grad_norm"] for row in one) > 0.5, "the norm is clipped in some step"
    own_process = {"used", "balance", "validation", "tokens", "mfu", "data", "damaged", "host"}
    for name, (world, layout) in LAYOUTS.items():
        rows = train(tmp_path, shards, name.replace(" ", "-"), world, *words, *layout.split())
        for mine, theirs in zip(one, rows, strict=True):
            for key in mine:
                if key.split("_")[0] not in own_process:
                    assert theirs[key] == pytest.approx(mine[key], rel=1e-5, abs=1e-7), (name, mine["step"], key)


@pytest.mark.slow
def test_zero_stages_agree_on_two_ranks(tmp_path: Path, shards: Path) -> None:
    one = train(tmp_path, shards, "stage1", 2, "parallel.zero_stage=1")
    for stage in (2, 3):
        other = train(tmp_path, shards, f"stage{stage}", 2, f"parallel.zero_stage={stage}")
        for mine, theirs in zip(one, other, strict=True):
            for key in ("loss", "grad_norm"):
                assert theirs[key] == pytest.approx(mine[key], rel=1e-4), (stage, mine["step"], key)


def test_a_clip_costs_by_its_phase() -> None:
    """48×64 in the second phase, 32×32 in the first: three times as many cells, and work."""
    small = ["clip.height=32", "clip.width=32"]
    settings = load_settings_as(VideoTokenizerRun, TOKENIZER, [*TOKENIZER_WORDS, *ADVERSARIAL, *small])
    first, second = (clip_cost(settings, settings.clip_in(phase)) for phase in settings.schedule)
    assert second.tokens == 3 * first.tokens
    assert second.flops == pytest.approx(3 * first.flops, rel=1e-3)
