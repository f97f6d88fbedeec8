"""What does it cost to draw several cells of a level in one pass, given only what came before all of them?

The price is nats an index over raster order, on fresh clips with the demo's tokens. First what the demo's language model knows:
how much the cells of a run in raster order say of each other. Then what training gives: beginning with the demo's weights, one
model learns seven orders, each micro-batch one of them at random, and is measured in each.
"""

from __future__ import annotations

from pathlib import Path

from experiments.grouped_layout import parse_groups
from experiments.lab import CONFIGS, ROOT, Lab, Rounds, Step, scaled
from experiments.tables import mean_text, paired, table, verdict
from hitvideo.hierarchy import Grid
from hitvideo.settings.programs import PretrainRun, load_settings_as

COSTS = "no video tokenizer; 32 clips × 180 cells × 32 draws, and for each seed one language model of 480 steps"
TABLES = ("grouped",)
SHARDS = "fresh"
SHOWCASE = ROOT / "hitvideo/showcase"
CONFIG = CONFIGS / "pretrain/tiny.yaml"
ORDERS = {
    "raster": ("raster", "raster", "raster", "raster"),
    "spread-4": ("raster", "spread:1,2,2", "spread:2,2,2", "spread:2,4,4"),
    "block-4": ("raster", "block:1,2,2", "block:1,2,2", "block:1,2,2"),
    "spread-8": ("raster", "spread:1,1,2", "spread:2,2,1", "spread:2,4,2"),
    "block-8": ("raster", "block:1,2,4", "block:1,2,4", "block:1,2,4"),
    "spread-16": ("block:1,2,2", "spread:1,1,2", "spread:1,1,2", "spread:2,2,2"),
    "block-16": ("block:1,2,2", "block:1,4,4", "block:1,4,4", "block:1,4,4"),
}
"""Name → groups of each level, as experiments/grouped_training.py takes them."""
RASTER = "raster"


def plan(lab: Lab) -> Rounds:
    tokens = lab.out / "tokens" / SHARDS / "manifest.json"
    words = ("--run", str(SHOWCASE), "--manifest", str(tokens), "--rows", str(lab.few(32)))
    figures = lab.out / "figures/information.json"
    information = Step("measure information", "experiments.grouped_information", words, figures, prints=True)
    return [[_shards(lab)], [_tokens(lab, tokens)], [information, *(_training(lab, seed, tokens) for seed in lab.seed_range)]]


def _shards(lab: Lab) -> Step:
    """Moving shapes that the demo's language model has not seen: of another seed."""
    step = lab.shapes(SHARDS, 4000)
    words = list(step.words)
    words[words.index("--seed") + 1] = "7"
    return step._replace(words=tuple(words))


def _tokens(lab: Lab, manifest: Path) -> Step:
    words = (
        str(CONFIGS / "tokenize_shards/tiny.yaml"), f"run.root={lab.out / 'runs'}", f"run.name={SHARDS}-tokens",
        "tracking.enabled=false", f"data.out={manifest.parent}", f"video_tokenizer.weights={SHOWCASE / 'video_tokenizer'}",
        f"data.video_shards={lab.out / 'shards' / SHARDS}",
    )  # fmt: skip
    return Step(f"tokens {SHARDS}", "tokenize_shards", words, manifest)


def _training(lab: Lab, seed: int, manifest: Path) -> Step:
    name = f"orders-{seed}"
    words = [
        f"run.root={lab.out / 'runs'}", f"run.name={name}", f"run.seed={seed}", "tracking.enabled=false",
        f"data.manifest={manifest}", "data.validation_samples=256", f"text.model={SHOWCASE / 'text_tokenizer.model'}",
        "train.steps=480", "train.warmup_steps=40", "train.lr=1e-3",
    ]  # fmt: skip
    words += [*scaled(CONFIG, words, lab.scale), "--weights", str(SHOWCASE / "weights/model.safetensors")]
    for groups in ORDERS.values():
        words += ["--groups", *groups]
    figures = lab.out / "figures" / f"{name}.json"
    return Step(f"train {name}", "experiments.grouped_training", (str(CONFIG), *words), figures, prints=True)


def passes(order: str) -> list[int]:
    """Passes that each level takes."""
    return [len(parse_groups(text).cells(grid)) for text, grid in zip(ORDERS[order], grids(), strict=True)]


def grids() -> list[Grid]:
    settings = load_settings_as(PretrainRun, CONFIG, [])
    return settings.hierarchy.grids(settings.clip.extent)


def tables(lab: Lab) -> dict[str, str]:
    parts = [part for part in (_information(lab), _trained(lab)) if part]
    return {"grouped": "\n\n".join(parts)} if parts else {}


def _information(lab: Lab) -> str | None:
    """Nats an index that a run of cells loses if it is drawn in one pass, with 95 % intervals over clips."""
    figures = lab.figures("information")
    if not figures:
        return None
    lengths = list(figures["lost"][-1])
    rows = []
    for level, lost in enumerate(figures["lost"]):
        means = {length: paired(values, [0.0] * len(values)) for length, values in lost.items()}
        shown = [f"{m.middle:.2f} ({m.low:.2f} to {m.high:.2f})" if (m := means.get(length)) else "" for length in lengths]
        rows.append([f"level {level}", *shown])
    clips = len(figures["lost"][0][lengths[0]])
    return table((f"lost, {clips} clips", *(f"runs of {length}" for length in lengths)), rows)


def _trained(lab: Lab) -> str | None:
    """Nats an index of each order over those of raster order, by the same model."""
    found = [f["orders"] for seed in lab.seed_range if (f := lab.figures(f"orders-{seed}"))]
    if not found:
        return None
    levels = range(len(grids()))
    by_order = {name: [[nats[number][k] for nats in found] for k in levels] for number, name in enumerate(ORDERS)}
    rows, said = [], []
    for name, nats in by_order.items():
        prices = [paired(nats[k], by_order[RASTER][k]) for k in levels]
        cells = [mean_text(nats[k], 3) if name == RASTER else f"{prices[k].middle:+.3f}" for k in levels]
        counts = passes(name)
        rows.append([name, *cells, f"{sum(counts)} ({' + '.join(map(str, counts))})"])
        if name != RASTER and len(found) > 1:
            said += ["- " + verdict(f"Level {k}, nats an index", name, RASTER, prices[k], "nats") for k in levels[2:]]
    return "\n".join([table(("drawn together", *(f"level {k}" for k in levels), "passes"), rows), *[""] * bool(said), *said])
