"""hitvideo serve: a page to try a run."""

from __future__ import annotations

import argparse
import logging
from contextlib import suppress

from hitvideo.commands.common import device, path
from hitvideo.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=path, required=True, help="run directory of `python -m pretrain`")
    parser.add_argument("--video-tokenizer", type=path, help="its weights, if they have moved since tokenizing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but this machine's own asks for a token")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one (default 8000)")


def serve(words: argparse.Namespace) -> None:
    """Until Ctrl-C: type a prompt, look at drafts, refine one, download it. Videos are kept in memory only."""
    from hitvideo.generation.generator import load_generator

    try:
        from hitvideo.serving.server import PageServer, listen
    except ModuleNotFoundError as error:
        raise ConfigError(f"the page needs {error.name}; run: pip install 'hitvideo[page]'") from error
    listener = listen(words.host, words.port)  # before the weights are loaded, which may take long
    generator = load_generator(words.run, device(), words.video_tokenizer)
    server = PageServer(generator, words.run.resolve().name, words.host, listener)
    logging.getLogger("hitvideo.generation").setLevel(logging.ERROR)  # what it says of prompts, the page says to those who ask
    print(f"{server.url}  (Ctrl-C stops it)", flush=True)
    with suppress(KeyboardInterrupt):
        server.run()
