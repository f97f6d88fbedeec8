"""The config mechanism: base files, overrides, and errors that name file, key, value and fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
import yaml

from hitvideo import config
from hitvideo.config import Section
from hitvideo.errors import ConfigError
from hitvideo.settings import programs
from tests.conftest import ROOT

RUNS = [
    path
    for program in ("pretrain_tokenizer", "tokenize_shards", "pretrain")
    for path in sorted((ROOT / "yaml_configs" / program).glob("*.yaml"))
]
TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"


class Inner(Section):
    rate: float = 1.0
    sizes: tuple[int, ...] = ()


class Outer(Section):
    name: str = "x"
    inner: Inner = Inner()
    note: str | None = None
    words: tuple[str, ...] = ()
    stage: Literal[0, 1, 1000] = 0
    on: bool = False


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------ loading


def test_bases_merge_in_order_and_the_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "parts/a.yaml", "name: a\ninner: {rate: 1, sizes: [1, 2, 3]}\n")
    write(tmp_path / "parts/b.yaml", "base: c.yaml\ninner: {rate: 2}\n")
    write(tmp_path / "parts/c.yaml", "name: c\ninner: {rate: 9}\n")  # the path c.yaml is relative to b.yaml
    top = write(tmp_path / "run.yaml", "base: [parts/a.yaml, parts/b.yaml]\ninner: {sizes: [7]}\n")
    # name is a, then c (a base of b); rate is 1, then 9, then 2; sizes is a list, so it is replaced and not joined.
    assert config.resolve(top) == {"name": "c", "inner": {"rate": "2", "sizes": ["7"]}}


def test_a_shared_base_is_not_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "shared.yaml", "name: shared\n")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.yaml", "base: shared.yaml\n")
    assert config.resolve(write(tmp_path / "run.yaml", "base: [a.yaml, b.yaml]\n")) == {"name": "shared"}


def test_merge_changes_neither_input() -> None:
    under, over = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}
    before = repr((under, over))
    assert config.merge(under, over) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert config.merge(under, {"a": 5}) == {"a": 5, "d": [1]}
    assert repr((under, over)) == before


def test_circle_of_bases(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        config.resolve(tmp_path / "a.yaml")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        config.resolve(tmp_path / "none.yaml")
    for base in ("gone.yaml", "../yaml_configs/gone.yaml", "yaml_configs/pretrain/gone.yaml", "/gone.yaml", "pretrain"):
        with pytest.raises(ConfigError, match=rf"run\.yaml: 'base': .*{base}: no such file.* config --list"):
            config.resolve(write(tmp_path / "run.yaml", f"base: [{base}]\n"))


@pytest.mark.parametrize("name", ["parts/cluster/h100.yaml", "yaml_configs/parts/cluster/h100.yaml"])
def test_a_base_that_ships_is_found_by_its_name_from_any_folder(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write(tmp_path / "deep/run.yaml", f"base: {name}\n")
    assert config.resolve(run) == config.read_yaml(ROOT / "yaml_configs/parts/cluster/h100.yaml")
    write(tmp_path / "deep" / name, "name: mine\n")
    assert config.resolve(run) == {"name": "mine"}, "a file beside the run comes first"


@pytest.mark.parametrize("base", ["{a: 1}", "[[a.yaml]]", "[{a: 1}]"])
def test_base_is_a_list_of_files(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: 'base' "):
        config.resolve(write(tmp_path / "run.yaml", f"base: {base}\n"))


NUMBERS = [
    ("3e-4", 3e-4), ("3E4", 3e4), ("-1e3", -1e3), ("1.5e-2", 0.015), (".5e1", 5.0), ("3.0e-4", 3e-4), ("8", 8), ("0012", 12),
    ("50_000_000", 5e7),
]  # fmt: skip
TEXTS = [
    "0012", "12e5", "2026-11-26", "2026-13-45", "no", "on", "1:30", "24:00:00", "true", "1_000", "0x1F", ".5", "3e-4", "a=b",
    "🎬", "=", "a 'b' \"c\"", "12345678901234567890",
]  # fmt: skip
NOT_YAML = [
    "/data/a #1/m.json", "/data/a: b", "*.tar", "[ab]*.tar", "{0..3}.tar", "{a..b}", "[", "&a", "%x", "@x", "a: [", " x", "-",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_numbers(tmp_path: Path, text: str, value: float) -> None:
    for content in (
        config.read_yaml(write(tmp_path / "run.yaml", f"inner: {{rate: {text}, sizes: [1]}}\n")),
        config.apply_overrides({}, [f"inner.rate={text}", "inner.sizes=[1]"]),
    ):
        assert config.build(Outer, content, "run.yaml").inner == Inner(rate=value, sizes=(1,))


@pytest.mark.parametrize("text", TEXTS + NOT_YAML)
def test_where_a_text_is_wanted_the_command_line_gives_what_is_written(text: str) -> None:
    built = config.build(Outer, config.apply_overrides({"name": "y"}, [f"name={text}", f"note={text}"]), "x")
    assert (built.name, built.note) == (text, text)


@pytest.mark.parametrize("text", TEXTS)
def test_where_a_text_is_wanted_yaml_gives_what_is_written(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "run.yaml", f"name: {text}\nnote: {text}\nwords: [{text}, b]\n")
    built = config.build(Outer, config.read_yaml(path), "x")
    assert (built.name, built.note, built.words) == (text, text, (text, "b"))


def test_quotes_null_lists_and_mappings_on_the_command_line(tmp_path: Path) -> None:
    def outer(*words: str) -> Outer:
        return config.build(Outer, config.apply_overrides({"note": "a", "inner": {"rate": "5"}}, words), "x")

    assert outer("name='0012'").name == outer('name="0012"').name == "0012"
    assert outer("name='null'").name == "null"
    assert outer("note=null").note is outer("note=").note is None
    assert outer("words=[007, 'b c']").words == ("007", "b c")
    assert outer("inner={sizes: [1, 2]}").inner == Inner(rate=5, sizes=(1, 2))  # merged, as any mapping
    assert [outer(f"stage={text}").stage for text in ("1", "1e3")] == [1, 1000]
    assert [outer(f"on={text}").on for text in ("true", "yes", "off")] == [True, True, False]
    assert config.build(Outer, config.read_yaml(write(tmp_path / "x.yaml", "note: ~\nname: '~'\n")), "x") == Outer(name="~")


@pytest.mark.parametrize(
    "word",
    ["inner.rate=nan", "inner.rate=.nan", "inner.rate=.inf", "inner.rate=1e999", "inner.rate=true", "inner.sizes=[true]",
     "inner.sizes=[1.5]", "inner.sizes=[1, 2", "inner.rate=1:30", "inner.rate=5 # five", "inner.rate=" + "9" * 10_000,
     "inner.sizes=" + "[" * 10_000, "inner=" + "{a: " * 10_000, "on=2", "stage=true", "inner.rate=" + "x" * 10_000,
     "inner.sizes=[" + "x," * 10_000 + "]", "x" * 10_000 + "=1", "inner." + "x" * 10_000 + "=1"],
    ids=lambda word: word[:24],
)  # fmt: skip
def test_what_is_refused_in_few_words(word: str) -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: .*(inner|on|stage|xxxx)") as caught:
        config.build(Outer, config.apply_overrides({}, [word]), "run.yaml")
    assert max(map(len, str(caught.value).splitlines())) < 700
    assert len(str(caught.value).splitlines()) <= 21


@pytest.mark.parametrize("text", [r'"a\0b"', r'"\ud83d"'])
def test_characters_that_no_file_name_has(tmp_path: Path, text: str) -> None:
    for key in ("base", "name"):
        with pytest.raises(ConfigError, match=r"run\.yaml: .*line 1: "):
            config.resolve(write(tmp_path / "run.yaml", f"{key}: {text}\n"))


def test_yaml_that_grows_is_refused_by_line(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for text, line in ((bomb, 2), ("a: 1\nb: " + "[" * 3000, 2), ("a: " + "{a: " * 3000, 1), ("a: *x", 1)):
        with pytest.raises(ConfigError, match=rf"run\.yaml: .*line {line}: ") as caught:
            config.read_yaml(write(tmp_path / "run.yaml", text))
        assert len(str(caught.value)) < 500


def test_later_overrides_win_and_the_content_stays() -> None:
    content = {"name": "x", "inner": {"rate": "1.0", "sizes": ["1"]}}
    result = config.apply_overrides(content, ["inner.rate=3e-4", "inner.sizes=[4, 5]", "name=a=b", "inner.rate=2"])
    assert config.build(Outer, result, "x") == Outer(name="a=b", inner=Inner(rate=2, sizes=(4, 5)))
    assert content["inner"] == {"rate": "1.0", "sizes": ["1"]}


@pytest.mark.parametrize("word", ["steps", "=3", "a..b=1", ".a=1", "a.=1"])
def test_not_an_override(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{re.escape(word)}' .*section\.key=value"):
        config.apply_overrides({}, [word])


@pytest.mark.parametrize("text", ["name: a\nname: b\n", "inner: {rate: 1, rate: 1}\n", "inner:\n  rate: 1\n  rate: 2\n"])
def test_a_key_given_twice(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: .*line \d: .*'(name|rate)'"):
        config.read_yaml(write(tmp_path / "run.yaml", text))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words\n", "3\n"])
def test_a_config_is_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: .*mapping.*(list|str)"):
        config.read_yaml(write(tmp_path / "run.yaml", text))


@pytest.mark.parametrize("text", ["a: [1\n", "a: b: c\n", "\ta: 1\n", "{a: 1}: 2\n", "? [1, 2]\n: 3\n"])
def test_not_yaml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: "):
        config.build(Outer, config.read_yaml(write(tmp_path / "run.yaml", text)), "run.yaml")


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.yaml: .*utf-8"):
        config.read_yaml(tmp_path / "run.yaml")


def test_python_objects_are_refused(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = write(tmp_path / "run.yaml", f"a: !!python/object/apply:os.mkdir ['{witness}']\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: .*python/object"):
        config.read_yaml(path)
    config.apply_overrides({}, [f"a=!!python/object/apply:os.mkdir ['{witness}']"])
    for tag in ("!!int x", "!!timestamp 2026-13-45", "!!bool maybe", "!!binary é", "!x y"):
        with pytest.raises(ConfigError, match=r"run\.yaml: .*line 1: "):
            config.read_yaml(write(tmp_path / "run.yaml", f"a: {tag}\n"))
    assert not witness.exists()


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert config.read_yaml(write(tmp_path / "run.yaml", "# nothing\n")) == {}


# ------------------------------------------------------------------------------------------------ errors of keys


def refusal(content: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.build(Outer, content, "run.yaml")
    return str(caught.value)


def test_unknown_key_names_the_nearest() -> None:
    assert refusal({"nmae": "x"}) == "run.yaml: unknown key 'nmae'; did you mean 'name'?"
    assert refusal({"inner": {"rat": 1}}) == "run.yaml: unknown key 'inner.rat'; did you mean 'inner.rate'?"
    # For a key of another section, the error names the key with its section.
    assert refusal({"sizes": 1}) == "run.yaml: unknown key 'sizes'; did you mean 'inner.sizes'?"
    assert refusal({"zzz": 1}) == "run.yaml: unknown key 'zzz'; known keys: inner, name, note, on, stage, words"


def test_wrong_types_name_key_and_value() -> None:
    message = refusal({"inner": {"rate": "fast", "sizes": [1, "two"]}, "name": [3]})
    assert len(message.splitlines()) == 3  # all errors at once
    for part in ("'inner.rate'", "'fast'", "'inner.sizes.1'", "'two'", "'name'", "[3]"):
        assert part in message
    assert all(line.startswith("run.yaml: ") for line in message.splitlines())


def test_missing_key() -> None:
    with pytest.raises(ConfigError, match=r"'run' is missing.*run=VALUE"):
        config.build(programs.TokenizeRun, {"program": "tokenize_shards"}, "run.yaml")


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "y"  # type: ignore[misc]


def test_flat_and_fingerprint() -> None:
    model = Outer(inner=Inner(rate=2, sizes=(1, 2)))
    assert config.flat(model.inner) == {"rate": 2.0, "sizes": [1, 2]}
    assert list(config.flat(model))[:3] == ["name", "inner.rate", "inner.sizes"]
    assert config.fingerprint(model) == config.fingerprint(Outer.model_validate(model.model_dump()))
    assert config.fingerprint(model) != config.fingerprint(Outer())
    assert config.fingerprint("a", "b") != config.fingerprint("b", "a")


# ------------------------------------------------------------------------------------------------ the runs that exist


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_run_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    run = programs.load_settings(path)
    again = programs.load_settings(write(tmp_path / "resolved.yaml", config.to_yaml(run)))
    assert again == run
    assert config.fingerprint(again) == config.fingerprint(run)


def test_there_are_runs_of_every_program() -> None:
    assert {programs.load_settings(path).program for path in RUNS} == set(programs.RUNS)


def test_every_run_divides_its_batch_on_its_own_cluster() -> None:
    for path in RUNS:
        run = programs.load_settings(path)
        if isinstance(run, programs.PretrainRun | programs.VideoTokenizerRun):
            world = run.cluster.nodes * run.cluster.devices_per_node
            assert world % run.parallel.tensor == 0, path
            assert run.train.accumulation(world // run.parallel.tensor) >= 1, path


def test_overrides_reach_the_run() -> None:
    run = programs.load_settings(TINY, ["train.lr=3e-4", "run.name=other", "train.betas=[0.8, 0.9]", "data.manifest=null"])
    assert isinstance(run, programs.PretrainRun)
    assert (run.train.lr, run.run.name, run.train.betas, run.data.manifest) == (3e-4, "other", (0.8, 0.9), None)


def test_a_run_of_another_program() -> None:
    with pytest.raises(ConfigError, match=r"python -m pretrain .*tiny\.yaml"):
        programs.load_settings_as(programs.TokenizeRun, TINY)
    with pytest.raises(ConfigError, match=r"video_tokenizer, tokenize_shards, pretrain.*'prtrain'"):
        programs.load_settings(TINY, ["program=prtrain"])
    for word in ("program=[a]", "program=null", "program=" + "x" * 10_000):
        with pytest.raises(ConfigError, match=r"'program' ") as caught:
            programs.load_settings(TINY, [word])
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.step=5"], r"unknown key 'train\.step'; did you mean 'train\.steps'\?"),
        (["trian.steps=5"], r"unknown key 'trian'; did you mean 'train'\?"),
        (["train.steps=many"], r"'train\.steps': .*integer.*\(got 'many'\)"),
        (["train.steps=0"], r"'train\.steps': .*greater than 0 \(got 0\)"),
        (["train.dtype=fp8"], r"'train\.dtype': .*'fp32' or 'bf16'.*'fp8'"),
        (["parallel.tensor=3"], r"llm\.heads 4 .*parallel\.tensor 3"),
        (["llm.heads=5"], r"'llm': width 128 .*heads 5"),
        (["llm.kv_heads=3"], r"'llm': heads 4 .*kv_heads 3"),
        (["parallel.tensor=2", "text.vocab_size=511"], r"text\.vocab_size 511 .*parallel\.tensor 2"),
        (["llm.rope_axes=[8, 12, 10]"], r"rope_axes \[8, 12, 10\] .*\b32\b"),
        (["llm.rope_axes=[7, 13, 12]"], r"rope_axes \[7, 13, 12\] .*even"),
        (["llm.rope_axes=[16, 16]"], r"'llm\.rope_axes"),
        (["video.height=40"], r"height 40 .*\b16\b.*try 32"),
        (["video.width=1"], r"width 1 .*\b16\b.*try 16"),
        (["text.vocab_size=260"], r"'text\.vocab_size': .*261 \(got 260\)"),
        (["run.name=../evil"], r"'run\.name': .*\.\./evil"),
        (["run.name=/etc"], r"'run\.name'"),
        (["run.name=.."], r"'run\.name'"),
        (["run.name=a/b"], r"'run\.name'"),
        (["run.name=''"], r"'run\.name'"),
        (["run.seed=-1"], r"'run\.seed': .* 0 \(got -1\)"),
        ([f"run.seed={1 << 63}"], r"'run\.seed': .*9223372036854775808"),
        ([f"train.steps={10**30}"], r"'train\.steps': .*9007199254740992"),
        (["train.steps=true"], r"'train\.steps': .*integer.*true"),
        (["clip.frames=10000000000"], r"'clip\.frames': .*1048576"),
        (["clip.frames=1000000"], r"1000000.* 22,500,000 tokens"),
        (["text.window=1e15"], r"'text\.window': .*1048576"),
        (["train.lr=inf"], r"'train\.lr': .*finite"),
        (["clip.fps=.inf"], r"'clip\.fps': .*number.*inf"),
        (["faults.hang_seconds=1e300"], r"'faults\.hang_seconds'"),
        (['run.name="a\\n"'], r"'run\.name'"),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        programs.load_settings(TINY, words)


def test_run_directory_stays_under_its_root() -> None:
    for name in ("a", "a.b", "A-1_2", "1b", "a.."):
        run = programs.load_settings(TINY, [f"run.name='{name}'", "run.root=somewhere"])
        assert run.run.directory == Path("somewhere") / name
        assert run.run.directory.resolve().parent == Path("somewhere").resolve()


def test_accumulation() -> None:
    train = programs.load_settings_as(programs.PretrainRun, TINY, ["train.global_batch=24", "train.micro_batch=4"]).train
    assert [train.accumulation(ranks) for ranks in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(ConfigError, match=r"global_batch 24 .*micro_batch 4 .*\b4\b.*\b16\b.*try 16"):
        train.accumulation(4)
    with pytest.raises(ConfigError, match=r"\b8\b.*\b32\b.*try 32"):
        train.accumulation(8)


def test_the_yaml_of_a_run_is_plain() -> None:
    """Any YAML reader gives the same content back, because there are no tags or anchors."""
    run = programs.load_settings(TINY)
    assert yaml.safe_load(config.to_yaml(run)) == run.model_dump(mode="json")


def test_keys_of_older_files_are_still_read(tmp_path: Path) -> None:
    old = write(tmp_path / "old.yaml", "video: {frames: 8}\ndata: {block: 4}\n")
    new = {"clip": {"frames": "8", "fps": "4"}, "data": {"read_together": "4"}}
    assert config.apply_overrides(config.resolve(old), ["video.fps=4"]) == new
    assert config.apply_overrides(config.resolve(old), ["clip.fps=4", "data.block=4"]) == new
    both = write(tmp_path / "both.yaml", "video: {frames: 8}\nclip: {frames: 8}\n")
    with pytest.raises(ConfigError, match=r"both\.yaml.*'video'.*'clip'"):
        config.resolve(both)
