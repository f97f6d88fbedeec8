"""README's animated picture: prompts, what level 0 alone shows of them, and the whole videos, drawn by a trained run.

    python -m experiments.animation showcase docs/demo.gif
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import hitvideo
from hitvideo.video.pixels import Frames

PROMPTS = (
    "a red circle moves right on a black background",
    "a yellow square moves down on a grey background",
    "a blue triangle moves left on a white background",
    "a green circle moves up on a grey background",
)
ZOOM = 3
TEXT_WIDTH, HEAD, GAP = 330, 26, 8
INK, PAPER = "black", "white"


def animate(prompts: Sequence[str], columns: Sequence[Sequence[Frames]], heads: Sequence[str], fps: float, out: Path) -> None:
    """Write a GIF with a row for each prompt and a column for each list of its videos, uint8 (T, H, W, 3)."""
    frames, height, width, _ = columns[0][0].shape
    size = (TEXT_WIDTH + len(columns) * (ZOOM * width + GAP), HEAD + len(prompts) * (ZOOM * height + GAP))
    font = ImageFont.load_default(13)
    pictures = []
    for frame in range(frames):
        picture = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(picture)
        for column, head in enumerate(heads):
            left = 0 if column == 0 else TEXT_WIDTH + (column - 1) * (ZOOM * width + GAP)
            pen.text((left + 4, 6), head, fill=INK, font=font)
        for row, prompt in enumerate(prompts):
            top = HEAD + row * (ZOOM * height + GAP)
            pen.text((4, top + ZOOM * height // 2 - 8), prompt, fill=INK, font=font)
            for column, videos in enumerate(columns):
                pixels = np.repeat(np.repeat(videos[row][frame], ZOOM, axis=0), ZOOM, axis=1)
                picture.paste(Image.fromarray(pixels), (TEXT_WIDTH + column * (ZOOM * width + GAP), top))
        pictures.append(picture)
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=True)


def main(run: str, out: str) -> int:
    model = hitvideo.load_run(run)
    columns = [model.generate(list(PROMPTS), levels=levels) for levels in (1, None)]
    tokens = [sum(codes.size for codes in videos[0].codes) for videos in columns]
    heads = ("prompt", f"{tokens[0]} tokens", f"{tokens[1]} tokens")
    animate(PROMPTS, [[video.frames for video in videos] for videos in columns], heads, columns[0][0].fps, Path(out))
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(str(__doc__))
    sys.exit(main(*sys.argv[1:]))
