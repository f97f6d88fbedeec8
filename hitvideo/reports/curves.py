"""Pictures of curves as SVG. They take most of a page's time, so processes share them."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable

from hitvideo.processes import shared

Lines = dict[str, list[tuple[float, float]]]


class Curves:
    """The pictures of a page: asked for while it is written, drawn at the end."""

    def __init__(self) -> None:
        self._asked: list[tuple[str, Lines]] = []
        self._mark = f"[curve {uuid.uuid4().hex} %d]"

    def add(self, title: str, lines: Lines) -> str:
        """The mark of a picture, for the page's text."""
        self._asked.append((title, lines))
        return self._mark % (len(self._asked) - 1)

    def drawn_in(self, page: str, jobs: int, progress: Callable[[int], object]) -> str:
        """The page with its pictures, drawn by `jobs` processes; `progress` is called with 1 after each."""
        pictures = list(shared(_draw, self._asked, jobs, progress))
        mark = re.escape(self._mark).replace("%d", r"(\d+)")
        return re.sub(mark, lambda found: pictures[int(found[1])], page)


def _draw(asked: tuple[str, Lines]) -> str:
    import matplotlib

    title, lines = asked
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["text.parse_math"] = False  # a name with dollar signs is not a formula
    figure, axes = pyplot.subplots(figsize=(5, 2.8), layout="constrained")
    for name, points in lines.items():
        xs, ys = zip(*points, strict=True) if points else ((), ())
        # A label that begins with _ would be hidden.
        axes.plot(xs, ys, label=f" {name}", marker="." if len(points) < 20 else None, linewidth=1.4)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    if len(lines) > 1:
        axes.legend(fontsize=7)
    out = io.StringIO()
    figure.savefig(out, format="svg")
    pyplot.close(figure)
    return out.getvalue()[out.getvalue().index("<svg") :]
