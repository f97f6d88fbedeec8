"""One HTML page of one or more runs, with everything inside it: results, videos that play, curves, the resolved config.

A run may be damaged, or come from somebody else: what cannot be shown is named on the page, and all text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.files import read_json, replace_file
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.gallery import Group, groups
from hitvideo.runs.secrets import masked

CURVES = (  # title, pattern of the metrics that share the picture
    ("Loss", r"(validation_)?loss"),
    ("Loss by level (nats per index)", r"loss_(level_\d+|text)"),
    ("PSNR of validation clips by prefix of levels (dB)", r"validation_psnr_.*"),
    ("Codes of each level in a micro-batch", r"used_level_\d+"),
    ("Most one-sided bit of each level (0 is dead)", r"balance_level_\d+"),
    ("Gradient norm", r"grad_norm"),
    ("Tokens per second", r"tokens_per_s"),
)
HEADLINE = {"reconstruction": ("psnr_by_prefix",), "captions": ("caption_accuracy", "chance")}
LARGEST_VALUE = 1e300  # what a curve can show
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem } p.note { opacity: .7; margin-top: 0 }
.row { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; width: 144px } figcaption { font-size: .75rem; line-height: 1.25; margin-top: .25rem }
video, figure img { width: 144px; image-rendering: pixelated; border-radius: 4px; background: #000; display: block }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 1rem }
.curves svg { width: 100%; height: auto; background: #fff; border-radius: 6px }
table { border-collapse: collapse } td.number { font-variant-numeric: tabular-nums }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line) }
pre { background: var(--soft); padding: .8rem; overflow: auto; font-size: .8rem }
"""


def write(paths: Sequence[Path]) -> dict[str, Any]:
    """Write `report.html` into the last run's directory; returns the headline figures of all runs, and its path."""
    runs = [RunDirectory.open(path) for path in paths]
    out = runs[-1].report
    found = {name: value for run in runs for name, value in _evaluations(run)[0].items()}
    headline: dict[str, Any] = {}
    for kind, names in HEADLINE.items():
        headline |= {name: found[kind][name] for name in names if name in found.get(kind, {})}
    headline["report"] = str(out)
    seconds = [taken for run in runs if (taken := run.seconds_since_start(time.time())) is not None]
    headline["seconds"] = round(max(seconds)) if seconds else None
    replace_file(out, _page(runs))
    return headline


def _page(runs: Sequence[RunDirectory]) -> str:
    title = html.escape(" · ".join(run.name for run in runs))
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>HiTVideo: {title}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<h1>{title}</h1><p class='note'>HiTVideo run report, {time.strftime('%Y-%m-%d %H:%M')}</p>",
    ]
    for run in reversed(runs):
        parts.append(f"<h2>{html.escape(run.name)}</h2>")
        results, damaged = _evaluations(run)
        parts += [_results(name, values) for name, values in results.items()]
        parts += [_note(text) for text in damaged]
        parts += [_group(group) for group in groups(run.path)]
        parts.append(_curves(run))
        text = html.escape(masked(run.config.read_text(encoding="utf-8", errors="replace")))
        parts.append(f"<details><summary>Resolved config</summary><pre>{text}</pre></details>")
    return "\n".join([*parts, "</html>"])


def _evaluations(run: RunDirectory) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The results of `hitvideo evaluate` by name, and what is wrong with the files that hold none."""
    results, damaged = {}, []
    for path in sorted(run.evaluation.glob("*.json")):
        try:
            results[path.stem] = read_json(path, "evaluation")
        except ConfigError as error:
            damaged.append(str(error))
    return results, damaged


def _note(text: str) -> str:
    return f"<p class='note'>Left out: {html.escape(text)}</p>"


def _results(name: str, values: dict[str, Any]) -> str:
    """A table: lists become columns (prefixes of levels), mappings too."""
    rows = []
    for key, value in values.items():
        cells = list(value.items()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        text = "".join(f"<td class='number'>{html.escape(_cell(cell))}</td>" for cell in cells)
        rows.append(f"<tr><th>{html.escape(key.replace('_', ' '))}</th>{text}</tr>")
    return f"<h3>Evaluation: {html.escape(name)}</h3><table>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} {_cell(value[1])}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _group(group: Group) -> str:
    shown = []
    for label, path in group.videos:
        content = base64.b64encode(path.read_bytes()).decode()
        element = f"<video autoplay loop muted playsinline src='data:video/mp4;base64,{content}'></video>"
        if path.suffix == ".png":
            element = f"<img alt='' src='data:image/png;base64,{content}'>"
        shown.append(f"<figure>{element}<figcaption>{html.escape(label)}</figcaption></figure>")
    notes = "".join(map(_note, group.left_out))
    return f"<h3>{html.escape(group.title)}</h3><div class='row'>{''.join(shown)}</div>{notes}"


def _curves(run: RunDirectory) -> str:
    rows = run.metrics()
    drawn = []
    for title, pattern in CURVES:
        names = sorted({name for row in rows for name in row if re.fullmatch(pattern, name)})
        if names:
            drawn.append(_curve(title, names, rows))
    return f"<h3>Curves</h3><div class='curves'>{''.join(drawn)}</div>" if drawn else ""


def _curve(title: str, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["text.parse_math"] = False  # a name with dollar signs is not a formula
    figure, axes = pyplot.subplots(figsize=(5, 2.8), layout="constrained")
    for name in names:
        points = [(row["step"], row[name]) for row in rows if _drawable(row["step"]) and _drawable(row.get(name))]
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, ys, label=name, marker="." if len(points) < 20 else None, linewidth=1.4)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    if len(names) > 1:
        axes.legend(fontsize=7)
    out = io.StringIO()
    figure.savefig(out, format="svg")
    pyplot.close(figure)
    return out.getvalue()[out.getvalue().index("<svg") :]


def _drawable(value: float | None) -> bool:
    return value is not None and abs(value) < LARGEST_VALUE
