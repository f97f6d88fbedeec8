"""Wrong inputs, and some that only look wrong: each ends with the right code and, if not 0, a line that names the culprit."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file, save_file

from hitvideo.commands import cli
from hitvideo.runs.ownership import held
from hitvideo.runs.program import guarded
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain.language_model import main as pretrain
from tests.conftest import ROOT
from tests.pretrain.runs import SMALL
from tests.samples import make_token_shards
from tests.worlds import start_ranks
from tokenize_shards.__main__ import main as tokenize_shards

TINY, JOB = ROOT / "yaml_configs/pretrain/tiny.yaml", ROOT / "yaml_configs/tokenize_shards/tiny.yaml"
TRAIN = (
    f"pretrain {TINY} data.manifest=@world/tokens/manifest.json run.root=@tmp/runs run.name=r {' '.join(SMALL)} train.steps=4"
)
TOKENIZE = (
    f"tokenize {JOB} video_tokenizer.weights=@world/weights data.video_shards=@world/videos data.out=@tmp/out "
    "data.workers=0 tracking.enabled=false run.root=@tmp/runs"
)
CONFIG = f"hitvideo config {TINY}"
GENERATE = "hitvideo generate --run @run --levels 1"
PROMPT = f"{GENERATE} --prompt a"


# ------------------------------------------------------------------------------------------------ what a row begins with


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def bomb(tmp: Path) -> None:
    lines = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdef", "bcdefg", strict=True)]
    write(tmp / "bomb.yaml", "\n".join(["a: &a [lol, lol]", *lines]))


def yamls(tmp: Path) -> None:
    (tmp / "folder.yaml").mkdir()
    write(tmp / "empty.yaml", "")
    for name, downs in (("odd", "[3, 8, 8]"), ("upside", "[1, 8, 8], num_bits: 8}, {down: [8, 8, 8]")):
        clip = "clip: {frames: 8, height: 32, width: 32, fps: 8}"
        write(tmp / f"{name}.yaml", f"{clip}\nhierarchy: {{levels: [{{down: {downs}, num_bits: 8}}]}}\n")


def tokenized(tmp: Path, world: Path) -> None:
    words = shlex.split(TOKENIZE.replace("@world", str(world)).replace("@tmp", str(tmp)))
    assert tokenize_shards(words[1:]) == 0


def packable(tmp: Path, world: Path) -> None:
    clip, head = (world / "clip.mp4").read_bytes(), "file\tcaption\n"
    (tmp / "empty").mkdir()
    write(tmp / "file", "")
    for name in ("one/a", "cyrillic/кот", "cyrillic/дом", "classes/cats/0001", "classes/dogs/0001"):
        write(tmp / f"{name}.mp4", clip)
        write(tmp / f"{name}.txt", "a thing")
    for encoding, caption in (("latin-1", "café"), ("utf-16", "café"), ("utf-8", "x" * 140_000)):
        write(tmp / f"one/{encoding}.tsv", f"{head}a.mp4\t{caption}\n".encode(encoding))


def drawn_before(tmp: Path) -> None:
    (tmp / "folder.mp4").mkdir()
    for name in ("mine.mp4", "mine.png", "sheet.png", "file"):
        write(tmp / name, "mine")


def copied(tmp: Path, world: Path) -> Path:
    shutil.copytree(world / "run", tmp / "run")
    return tmp / "run"


def runs(tmp: Path, world: Path) -> None:
    shutil.rmtree(copied(tmp / "bare", world) / "weights")
    shutil.rmtree(tmp / "bare/run/checkpoints")
    weights = copied(tmp / "cut", world) / "weights/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    weights = copied(tmp / "less", world) / "weights/model.safetensors"
    tensors = load_file(weights)
    del tensors["trunk.norm.weight"]
    save_file(tensors, weights)


def bad_json(tmp: Path, world: Path) -> None:
    with tarfile.open(next((world / "videos").glob("*.tar"))) as old, tarfile.open(tmp / "000000.tar", "w") as new:
        first = next(name for name in old.getnames() if name.endswith("json"))
        for member in old.getmembers():
            file = old.extractfile(member)
            assert file
            new.add(write(tmp / "member", b"{" if member.name == first else file.read()), member.name)


def receipt_cut(tmp: Path) -> None:
    make_token_shards(tmp / "tokens", shards=1, per_shard=4)
    path = next((tmp / "tokens").glob("*.receipt.json"))
    path.write_text(path.read_text()[:40])


def other_program(tmp: Path) -> None:
    settings = load_settings_as(PretrainRun, TINY).model_dump(mode="json")
    write(tmp / "runs/r/config.yaml", json.dumps({"program": "video_tokenizer", "run": settings["run"]}))


def no_shards(tmp: Path) -> None:
    (tmp / "folder/0.tar").mkdir(parents=True)
    (tmp / "link").mkdir()
    (tmp / "link/0.tar").symlink_to("nowhere")


def small_clips(tmp: Path) -> None:
    for height in (4, 33):
        write(tmp / f"{height}.yaml", f"clip: {{frames: 8, height: {height}, width: {height}, fps: 8}}\n")


Prepare = Callable[..., object]
PREPARE: dict[str, Prepare] = {
    "16": bomb, "17": yamls, "18": yamls, "21": other_program, "24": tokenized, "25": tokenized, "28": tokenized,
    "27": lambda tmp: write(tmp / "out", ""),
    "30": lambda tmp: (tmp / "none").mkdir(),
    "31": no_shards, "38": small_clips,
    "33": packable, "34": packable, "35": packable, "36": packable, "37": packable, "49": drawn_before, "50": drawn_before,
    "53": runs, "54": runs, "59": bad_json, "61": receipt_cut, "62": lambda tmp: (tmp / "folder").mkdir(),
    "63": lambda tmp: write(tmp / "hf/config.json", '{"model_type": "mine"}'),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ the rows


class Row(NamedTuple):
    number: str
    words: str
    code: int
    says: str
    """What the output holds: the culprit's name and value, apart from each other; if the code is 0, texts with | between."""


ROWS = [
    Row("1", f"{CONFIG} train.stepz=5", 2, "'train.stepz' 'train.steps'"),
    Row("2", f"{CONFIG} train.steps=ten", 2, "'train.steps' 'ten'"),
    Row("3", f"{CONFIG} train.steps=-5", 2, "'train.steps' -5"),
    Row("4", f"{CONFIG} train.steps=true", 2, "'train.steps' 'true'"),
    Row("5", f"{CONFIG} train.steps=1{30 * '0'}", 2, "'train.steps' 9007199254740992"),
    Row("6", f"{CONFIG} train.lr=.nan", 2, "'train.lr' .nan"),
    Row("6", f"{CONFIG} train.lr=.inf", 2, "'train.lr' .inf"),
    Row("7", f"{CONFIG} clip.fps=inf", 2, "'clip.fps' inf"),
    Row("8", f"{CONFIG} run.seed={2**70}", 2, f"'run.seed' {2**63}"),
    Row("9", f"{CONFIG} train.warmup_steps=10000", 0, "train.warmup_steps 10000"),
    Row("10", f"{CONFIG} run.name=2026-13-45", 0, "name: '2026-13-45'"),
    Row("11", f"{CONFIG} run.name=007", 0, "name: '007'"),
    Row("12", f"{CONFIG} 'data.manifest=/data/a #1/m.json'", 0, "'/data/a #1/m.json'"),
    Row("13", f"{CONFIG} 'data.manifest=/data/a: b/m.json'", 0, "'/data/a: b/m.json'"),
    Row("14", f"{CONFIG} run.name={'[' * 3000}", 2, "'run.name'"),
    Row("15", f"{CONFIG} run.name={'x' * 10_000}", 2, "'run.name' 9,"),
    Row("15", f"{CONFIG} train.steps={'x' * 10_000}", 2, "'train.steps' 9,"),
    Row("16", "hitvideo config @tmp/bomb.yaml", 2, "bomb.yaml line"),
    Row("17", "hitvideo config @tmp/folder.yaml", 2, "folder.yaml"),
    Row("17", "hitvideo config @world/clip.mp4", 2, "clip.mp4"),
    Row("17", "hitvideo config @tmp/missing.yaml", 2, "missing.yaml"),
    Row("17", "hitvideo config @tmp/empty.yaml", 2, "empty.yaml 'program'"),
    Row("18", "hitvideo inspect @tmp/odd.yaml", 2, "odd.yaml levels.0 [3, 8, 8]"),
    Row("18", "hitvideo inspect @tmp/upside.yaml", 2, "upside.yaml 'hierarchy' level 0"),
    Row("19", f"{CONFIG} train.global_batch=7", 2, "train.global_batch 7 try 8"),
    Row("20", f"{TRAIN} 'hierarchy.levels=[{{down: [8, 8, 8], num_bits: 9}}]'", 2, "manifest.json levels"),
    Row("21", TRAIN, 2, "pretrain.video_tokenizer run.name"),
    Row("22", TRAIN, 2, "runs/r holds"),
    Row("23", f"{TOKENIZE} data.out=@world/videos", 2, "data.out @world/videos"),
    Row("24", f"{TOKENIZE} data.video_shards=@world/newer", 2, "data.out data.video_shards"),
    Row("25", f"{TOKENIZE} video_tokenizer.weights=@world/other", 2, "@tmp/out"),
    Row("25", f"{TOKENIZE} limits.max_pixels=100", 2, "@tmp/out limits"),
    Row("26", f"hitvideo config {JOB} data.out=~/t", 0, f"out: {os.path.expanduser('~')}/t"),
    Row("26", f"hitvideo config {JOB} data.out=s3://b/t", 2, "'data.out' s3://"),
    Row("27", TOKENIZE, 2, "data.out @tmp/out"),
    Row("27", f"{TOKENIZE} data.out=/proc/t", 2, "data.out /proc/t"),
    Row("28", TOKENIZE, 2, "contract.json"),
    Row("29", f"{TOKENIZE} video_tokenizer.weights=@tmp/moved", 2, "video_tokenizer.weights @tmp/moved"),
    Row("29", f"{TRAIN} video_tokenizer.weights=@tmp/moved", 2, "video_tokenizer.weights @tmp/moved"),
    Row("29", f"{PROMPT} --video-tokenizer @tmp/moved", 2, "--video-tokenizer @tmp/moved"),
    Row("30", f"{TOKENIZE} data.video_shards=@tmp/none", 2, "@tmp/none"),
    Row("31", f"{TOKENIZE} data.video_shards=@tmp/folder", 2, "@tmp/folder"),
    Row("31", f"{TOKENIZE} data.video_shards=@tmp/link", 2, "@tmp/link"),
    Row("32", f"{TOKENIZE} data.workers=1 data.decode_gib=.inf", 2, "'data.decode_gib' .inf"),
    Row("32", f"{TOKENIZE} data.workers=1 data.decode_gib=0.01", 2, "data.decode_gib"),
    Row("33", "hitvideo data pack @tmp/empty @tmp/out", 2, "@tmp/empty"),
    Row("33", "hitvideo data pack @tmp/nowhere @tmp/out", 2, "@tmp/nowhere"),
    Row("33", "hitvideo data pack @tmp/one @tmp/out --per-shard 0", 2, "per_shard 0"),
    Row("33", "hitvideo data pack @tmp/one @tmp/out --per-shard -3", 2, "per_shard -3"),
    Row("34", "hitvideo data pack @world/clip.mp4 @tmp/out", 2, "@world/clip.mp4"),
    Row("34", "hitvideo data pack @tmp/one/latin-1.tsv @tmp/out", 2, "latin-1.tsv"),
    Row("34", "hitvideo data pack @tmp/one/utf-16.tsv @tmp/out", 0, "1 packed"),
    Row("35", "hitvideo data pack @tmp/one/utf-8.tsv @tmp/out", 0, "1 packed"),
    Row("36", "hitvideo data pack @tmp/one @tmp/file", 2, "@tmp/file"),
    Row("36", "hitvideo data pack @tmp/one /proc/x", 2, "/proc/x"),
    Row("37", "hitvideo data pack @tmp/cyrillic @tmp/out", 0, "2 packed"),
    Row("37", "hitvideo data pack @tmp/classes @tmp/out", 0, "2 packed"),
    Row("38", "hitvideo data moving-shapes @tmp/out --num 1 --seed -1", 2, "seed -1"),
    Row("38", "hitvideo data moving-shapes @tmp/out --num 1 --hierarchy @tmp/4.yaml", 2, "4×4"),
    Row("38", "hitvideo data moving-shapes @tmp/out --num 1 --hierarchy @tmp/33.yaml", 2, "33×33 even"),
    Row("39", f"{PROMPT} --levels 0", 2, "levels 0 4"),
    Row("40", f"{PROMPT} --levels 9", 2, "levels 9 4"),
    Row("40", f"{PROMPT} --levels -1", 2, "levels -1 4"),
    *(Row("41", f"{PROMPT} --guidance {value}", 2, f"guidance {value}") for value in ("nan", "inf")),
    Row("41", f"{PROMPT} --guidance 1e39", 2, "guidance 1e+39"),
    Row("42", f"{PROMPT} --guidance -1", 2, "guidance -1"),
    *(Row("42", f"{PROMPT} --top-p {value}", 2, f"top-p {value}") for value in ("0", "1.5", "nan")),
    Row("42", f"{PROMPT} --top-k -1", 2, "top-k -1"),
    Row("42", f"{PROMPT} --temperature -1", 2, "temperature -1"),
    *(Row("43", f"{PROMPT} --temperature {value}", 2, f"temperature {value}") for value in ("nan", "1e-45")),
    Row("44", f"{PROMPT} --seed {2**70}", 2, f"seed {2**70}"),
    Row("44", f"{PROMPT} --seed -1", 2, "seed -1"),
    Row("45", f"{GENERATE} --prompt '' --out @tmp/o.mp4", 0, "prompt 1 is empty"),
    Row("46", f"{GENERATE} --prompt '{'red ' * 25_000}' --out @tmp/o.mp4", 0, "text.window 24"),
    Row("47", f"{GENERATE} --prompt 'a\0b 🎬 \u202e' --out @tmp/o.mp4", 0, "o.mp4"),
    Row("48", f"{GENERATE} --prompt caf\udce9", 2, "prompt 1 character 4"),
    Row("49", f"{PROMPT} --out @tmp/folder.mp4", 2, "@tmp/folder.mp4"),
    Row("49", f"{PROMPT} --out @tmp/file/o.mp4", 2, "@tmp/file"),
    Row("49", f"{PROMPT} --out /proc/o.mp4", 2, "/proc/o.mp4"),
    Row("50", f"{PROMPT} --out @tmp/plain", 2, "@tmp/plain .mp4"),
    Row("50", f"{PROMPT} --out @tmp/x.png", 2, "@tmp/x.png .mp4"),
    Row("50", f"{PROMPT} --out @tmp/x.gif", 2, "@tmp/x.gif .mp4"),
    Row("50", f"{PROMPT} --out s3://b/x.mp4", 2, "s3:/ URL"),
    Row("50", f"{PROMPT} --out @tmp/mine.mp4", 2, "@tmp/mine.mp4 --overwrite"),
    Row("50", f"{PROMPT} --out @tmp/sheet.mp4", 2, "@tmp/sheet.png --overwrite"),
    Row("50", f"{PROMPT} --out @tmp/mine.mp4 --overwrite", 0, "@tmp/mine.mp4"),
    Row("51", f"{PROMPT} --out '@tmp/юникод и пробел/o 1.mp4'", 0, "юникод и пробел/o 1.mp4"),
    Row("52", "hitvideo generate --prompt a --run @tmp/missing", 2, "@tmp/missing"),
    Row("52", "hitvideo generate --prompt a --run @world/weights", 2, "@world/weights"),
    Row("52", "hitvideo generate --prompt a --run @world/clip.mp4", 2, "@world/clip.mp4"),
    Row("53", "hitvideo generate --prompt a --run @tmp/bare/run", 2, "@tmp/bare/run"),
    Row("53", "hitvideo generate --prompt a --run @tmp/cut/run", 2, "model.safetensors"),
    Row("54", "hitvideo generate --prompt a --run @tmp/less/run", 2, "@tmp/less/run trunk.norm.weight"),
    Row("55", f"{PROMPT} --out @tmp/o.mp4", 0, "o.mp4"),
    Row("56", f"{PROMPT} --video-tokenizer @world/other", 2, "--video-tokenizer @world/other"),
    Row("57", "hitvideo evaluate reconstruction --run @tmp --videos @world --clips 0", 2, "--clips 0"),
    Row("57", "hitvideo evaluate reconstruction --run @tmp --videos @world --clips -5", 2, "--clips -5"),
    Row("58", "hitvideo inspect @world/videos", 2, "@world/videos folder"),
    Row("59", "hitvideo inspect @tmp/000000.tar", 0, "shapes-0-000000 | JSON | shapes-0-000001"),
    Row("60", "hitvideo data verify @world/clip.mp4", 2, "clip.mp4"),
    Row("61", "hitvideo data verify @tmp/tokens/manifest.json", 1, "000000.receipt.json"),
    Row("62", "hitvideo data text-tokenizer @world/tokens/manifest.json @tmp/folder", 2, "@tmp/folder"),
    Row("62", "hitvideo export @run @tmp/new/all.safetensors", 0, "@tmp/new/all.safetensors"),
    Row("63", "hitvideo export @run @tmp/hf --names llama", 2, "@tmp/hf/config.json"),
    Row("64", TRAIN.replace("train.steps=4", "train.steps=400"), 75, ""),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ running them


def in_a_rank(words: list[str], log: str) -> int:
    with Path(log).open("wb") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
        guarded(pretrain, words)
    raise AssertionError("guarded exits")


def stop_when_it_trains(run: Path) -> None:
    for _ in range(1200):
        if (run / "metrics.jsonl").is_file():
            (run / "STOP").touch()
            break
        time.sleep(0.05)


def outcome(words: list[str], tmp: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    if words[0] == "pretrain":
        (rank,) = start_ranks(in_a_rank, 1, words[1:], str(tmp / "log"))
        threading.Thread(target=stop_when_it_trains, args=(tmp / "runs/r",), daemon=True).start()
        rank.join(120)
        assert rank.exitcode is not None, (tmp / "log").read_text()
        return rank.exitcode, (tmp / "log").read_text()
    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:]) if words[0] == "hitvideo" else guarded(tokenize_shards, words[1:])
    assert isinstance(ended.value.code, int)
    return ended.value.code, "\n".join(capsys.readouterr())


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands are given from another folder than the one that the run was started in."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():  # tokenize_shards has set its own
        signal.signal(number, handler)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_wrong_inputs(
    row: Row, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def filled(text: str) -> str:
        return text.replace("@run", str(world / "run")).replace("@world", str(world)).replace("@tmp", str(tmp_path))

    if row.number in PREPARE:
        prepare = PREPARE[row.number]
        prepare(*(tmp_path, world)[: prepare.__code__.co_argcount])
    if row.number == "28":
        (tmp_path / "out/contract.json").write_text('{"contract":')
    before = {path: path.read_bytes() for path in sorted(world.rglob("*")) if path.is_file()}
    with ExitStack() as stack:
        if row.number == "22":
            stack.enter_context(held(tmp_path / "runs/r"))
        code, printed = outcome(shlex.split(filled(row.words)), tmp_path, capsys)
    printed += caplog.text
    assert code == row.code, printed
    assert "Traceback" not in printed
    for word in filled(row.says).split(None if row.code else " | "):
        assert word in printed, printed
    if row.code == 2:
        errors = [line for line in printed.splitlines() if line.startswith(("error: ", "hitvideo"))]
        assert len(errors) == 1, printed
        assert len(errors[0]) < 1100
        assert {path: path.read_bytes() for path in sorted(world.rglob("*")) if path.is_file()} == before
    if row.number == "20":
        assert not (tmp_path / "runs").exists()
    if "--out" in row.words or "text-tokenizer" in row.words:
        assert not list(tmp_path.rglob(".*")), "nothing half-written is left"
    assert len(printed) < 6000
