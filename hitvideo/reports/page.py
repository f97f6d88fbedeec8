"""One HTML page of one or more runs, with everything inside it: results, videos that play, curves, the resolved config.

A run may be damaged, or come from somebody else: what cannot be shown is named on the page, and all text is escaped.
"""

from __future__ import annotations

import base64
import html
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.files import read_json, replace_file
from hitvideo.reports.comparison import not_comparable
from hitvideo.reports.curves import Curves
from hitvideo.reports.overview import Overview
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
MOST_POINTS = 1000
STYLE = """
:root { color-scheme: light; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; overflow-wrap: anywhere;
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem } p.note { color: #555; margin-top: 0 }
.row { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; width: 144px } figcaption { font-size: .75rem; line-height: 1.25; margin-top: .25rem }
p.warning { border-left: 4px solid #b45309; padding-left: .6rem }
h4 { margin: .8rem 0 .2rem; font-size: .9rem }
.wide { overflow-x: auto } .wide table { overflow-wrap: normal }
.wide th { white-space: nowrap }
.wide th.label { width: 144px; min-width: 144px; white-space: normal; font-weight: normal; font-size: .75rem;
  line-height: 1.25; vertical-align: bottom }
video, figure img, td img { width: 144px; image-rendering: pixelated; border-radius: 4px; background: #000; display: block }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 1rem }
.curves svg { width: 100%; height: auto; background: #fff; border-radius: 6px }
table { border-collapse: collapse } .number { font-variant-numeric: tabular-nums }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line) }
pre { background: var(--soft); padding: .8rem; overflow: auto; font-size: .8rem }
"""


def write(paths: Sequence[Path], jobs: int = 1, progress: Callable[[int], object] = lambda _: None) -> dict[str, Any]:
    """Write `report.html` into the last run's directory; returns the headline figures of all runs, and its path.

    `jobs` processes share the pictures of curves; `progress` is called with 1 after each.
    """
    runs = [RunDirectory.open(path) for path in paths]
    out = runs[-1].report
    found = {name: value for run in runs for name, value in _evaluations(run)[0].items()}
    headline: dict[str, Any] = {}
    for kind, names in HEADLINE.items():
        headline |= {name: found[kind][name] for name in names if name in found.get(kind, {})}
    headline["report"] = str(out)
    seconds = [taken for run in runs if (taken := run.seconds_since_start(time.time())) is not None]
    headline["seconds"] = round(max(seconds)) if seconds else None
    curves = Curves()
    page = _page(runs, curves)
    replace_file(out, curves.drawn_in(page, jobs, progress))
    return headline


def _page(runs: Sequence[RunDirectory], curves: Curves) -> str:
    title = html.escape(" · ".join(run.name for run in runs))
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>HiTVideo: {title}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>",
        f"<h1>{title}</h1><p class='note'>HiTVideo run report, {time.strftime('%Y-%m-%d %H:%M')}</p>",
    ]
    programs: dict[str, list[RunDirectory]] = {}
    for run in runs:
        programs.setdefault(_program(run), []).append(run)
    for alike in reversed(programs.values()):
        if len(alike) > 1:
            parts += [f"<h2>{html.escape(' and '.join(run.name for run in alike))}</h2>", *map(_warning, _warnings(alike))]
            parts += [_curves(alike, curves), *_side_by_side(alike)]
        for run in reversed(alike):
            parts.append(f"<h2>{html.escape(run.name)}</h2>")
            results, damaged = _evaluations(run)
            parts += [_results(name, values) for name, values in results.items()]
            parts += [_note(text) for text in damaged]
            parts += [_group(group) for group in groups(run.path)] if len(alike) == 1 else []
            parts.append(_curves([run], curves) if len(alike) == 1 else "")
            text = html.escape(masked(run.config.read_text(encoding="utf-8", errors="replace")))
            parts.append(f"<details><summary>Resolved config</summary><pre>{text}</pre></details>")
    return "\n".join([*parts, "</html>"])


def _program(run: RunDirectory) -> str:
    """The run's program; empty if its settings cannot be read, which the page shows as they are."""
    try:
        return Overview(run).program
    except ConfigError:
        return ""


def _warnings(runs: Sequence[RunDirectory]) -> list[str]:
    """Why the figures of these runs are not comparable."""
    try:
        return [warning.text for warning in not_comparable([Overview(run) for run in runs])]
    except ConfigError as error:
        return [str(error)]


def _warning(text: str) -> str:
    return f"<p class='warning'>Not comparable: {html.escape(text)}</p>"


def _side_by_side(runs: Sequence[RunDirectory]) -> Iterator[str]:
    """Groups by title: a row for each run, a column for each label, such as a prompt. Equal titles say equal seeds."""
    by_title: dict[str, dict[str, dict[str, Path]]] = {}
    for run in runs:
        for group in groups(run.path):
            by_title.setdefault(group.title, {}).setdefault(run.name, {}).update(group.videos)
            yield from map(_note, group.left_out)
    for title, rows in by_title.items():
        labels = list(dict.fromkeys(label for videos in rows.values() for label in videos))
        head = "".join(f"<th class='label'>{html.escape(label)}</th>" for label in labels)
        body = ""
        for name, videos in rows.items():
            cells = "".join(f"<td>{_element(videos[label]) if label in videos else '–'}</td>" for label in labels)
            body += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
        yield f"<h3>{html.escape(title)}</h3><div class='wide'><table><tr><th></th>{head}</tr>{body}</table></div>"


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
    """The table that the command printed, if it keeps one; else figures by prefix of levels, or by name, and single ones."""
    if isinstance(values.get("table"), str):
        return f"<h3>Evaluation: {html.escape(name)}</h3><pre>{html.escape(values['table'])}</pre>"
    lists = {key: value for key, value in values.items() if isinstance(value, list) and value and _numbers(value)}
    most = max(map(len, lists.values()), default=0)
    rows = [("levels", *map(str, range(1, most + 1)))] if lists else []
    rows += [(_words(key), *map(_cell, value)) for key, value in lists.items()]
    table = _table(rows, header=True)
    for key, value in values.items():
        if isinstance(value, dict) and value and _numbers([each for each in value.values() if not isinstance(each, list)]):
            table += f"<h4>{html.escape(_words(key))}</h4>"
            table += _table([(_words(str(each)), *map(_cell, x if isinstance(x, list) else [x])) for each, x in value.items()])
    single = [(_words(key), _cell(value)) for key, value in values.items() if not isinstance(value, list | dict)]
    return f"<h3>Evaluation: {html.escape(name)}</h3>{table}{_table(single)}"


def _words(key: str) -> str:
    return key.replace("_", " ").removesuffix(" by prefix")


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float | None) for value in values)


def _table(rows: Sequence[Sequence[str]], header: bool = False) -> str:
    lines = []
    for number, (first, *rest) in enumerate(rows):
        tag = "th" if header and number == 0 else "td"
        cells = "".join(f"<{tag} class='number'>{html.escape(cell)}</{tag}>" for cell in rest)
        lines.append(f"<tr><th>{html.escape(first)}</th>{cells}</tr>")
    return f"<div class='wide'><table>{''.join(lines)}</table></div>" if lines else ""


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _group(group: Group) -> str:
    shown = [f"<figure>{_element(path)}<figcaption>{html.escape(label)}</figcaption></figure>" for label, path in group.videos]
    notes = "".join(map(_note, group.left_out))
    return f"<h3>{html.escape(group.title)}</h3><div class='row'>{''.join(shown)}</div>{notes}"


def _element(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    if path.suffix == ".png":
        return f"<img alt='' src='data:image/png;base64,{content}'>"
    return f"<video autoplay loop muted playsinline src='data:video/mp4;base64,{content}'></video>"


def _curves(runs: Sequence[RunDirectory], curves: Curves) -> str:
    """Pictures of the metrics; of several runs, each metric is a picture of its own with a line for each run."""
    rows = {run.name: run.metrics() for run in runs}
    known = {name for each in rows.values() for row in each for name in row}
    drawn = []
    for title, pattern in CURVES:
        names = sorted(name for name in known if re.fullmatch(pattern, name))
        if names and len(runs) == 1:
            drawn.append(curves.add(title, {name: _points(rows[runs[0].name], name) for name in names}))
        elif names:
            drawn += [curves.add(name, {run: _points(each, name) for run, each in rows.items()}) for name in names]
    return f"<h3>Curves</h3><div class='curves'>{''.join(drawn)}</div>" if drawn else ""


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """Steps and values, thinned out to what a picture can show; the last one stays."""
    points = [(row["step"], row[name]) for row in rows if _drawable(row["step"]) and _drawable(row.get(name))]
    return points[:: -max(1, len(points) // MOST_POINTS)][::-1]


def _drawable(value: float | None) -> bool:
    return value is not None and abs(value) < LARGEST_VALUE
