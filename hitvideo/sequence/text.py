"""The text tokenizer: SentencePiece with byte fallback, which gives back any UTF-8 caption exactly.

Identity normalisation without whitespace folding keeps "Zürich — 東京 🎬" and double spaces as they are. BOS, EOS, PAD and
EOV are control symbols: a caption that contains "</s>" gets the bytes of those letters, not the symbol. Half of a surrogate
pair, which JSON can spell and UTF-8 cannot, becomes U+FFFD.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from hitvideo.errors import ConfigError
from hitvideo.files import replace_file
from hitvideo.sequence.vocab import BOS, EOS, EOV, EOV_PIECE, PAD, UNK

SMALLEST_VOCABULARY = 5 + 256  # the specials and one piece for every byte
MOST_CAPTIONS = 1_000_000
"""Enough to train on; all of them are in memory."""
LINE = 1000  # characters, at most 4,000 bytes: the trainer leaves out lines above 4,192 bytes without a word
SPACE_SIGN = "\u2581"  # how sentencepiece writes a space; the same character in a caption is encoded as its bytes

_SURROGATE = re.compile("[\ud800-\udfff]")


class TextTokenizer:
    """Captions ⇄ text ids, by a `.model` file of sentencepiece."""

    def __init__(self, model: bytes, source: str = "text tokenizer") -> None:
        """`source` names the model in errors. Raises ConfigError if it is not a model with our control symbols."""
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{source}: not a sentencepiece model: {error}") from error
        found = (self._processor.pad_id(), self._processor.unk_id(), self._processor.bos_id(), self._processor.eos_id())
        last = self._processor.get_piece_size() - 1
        if found != (PAD, UNK, BOS, EOS) or last < EOV or self._processor.id_to_piece(EOV) != EOV_PIECE:
            raise ConfigError(f"{source}: its control symbols are not ours; train one with `hitvideo data text-tokenizer`")
        self._space_sign = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SIGN.encode()]

    @classmethod
    def load(cls, path: Path | str) -> TextTokenizer:
        """Read a `.model` file. Raises ConfigError if it cannot be used."""
        try:
            return cls(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot read the text tokenizer: {error}") from error

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int) -> TextTokenizer:
        """Train byte-pair encoding with byte fallback, in one thread, so that the same captions give the same bytes.

        `vocab_size` is an upper bound: a small corpus gets as many pieces as it has. Raises ConfigError if every caption
        is empty, or `vocab_size` is below SMALLEST_VOCABULARY.
        """
        lines = [line for caption in captions for line in _lines(caption)]
        if not lines:
            raise ConfigError("no captions to train a text tokenizer on: every caption is empty")
        if vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(f"a text vocabulary of {vocab_size} is too small: bytes and specials need {SMALLEST_VOCABULARY}")
        while True:
            out = io.BytesIO()
            try:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(lines),
                    model_writer=out,
                    vocab_size=vocab_size,
                    model_type="bpe",
                    byte_fallback=True,
                    character_coverage=0.9995,
                    normalization_rule_name="identity",
                    remove_extra_whitespaces=False,
                    add_dummy_prefix=False,
                    required_chars=SPACE_SIGN,  # a piece of its own even if no caption has a space
                    split_digits=True,
                    pad_id=PAD,
                    unk_id=UNK,
                    bos_id=BOS,
                    eos_id=EOS,
                    control_symbols=[EOV_PIECE],
                    num_threads=1,
                    minloglevel=2,
                )
            except RuntimeError as error:
                # Only "Vocabulary size too high … Please set it to a value <= N." can be fixed: take those N pieces.
                offered = str(error).rpartition("<= ")[2].rstrip(".")
                if not offered.isdigit() or int(offered) >= vocab_size:
                    raise ConfigError(f"sentencepiece cannot train on these captions: {error}") from error
                vocab_size = int(offered)
                continue
            return cls(out.getvalue())

    @property
    def size(self) -> int:
        """Number of pieces, specials included."""
        return int(self._processor.get_piece_size())

    def encode(self, caption: str) -> list[int]:
        """Text ids without BOS and EOS."""
        first, *others = _valid(caption).split(SPACE_SIGN)
        ids = list(self._processor.encode(first))
        for part in others:
            ids += [*self._space_sign, *self._processor.encode(part)]
        return ids

    def decode(self, text_ids: list[int]) -> str:
        return str(self._processor.decode(text_ids))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, self.model)


def _valid(caption: str) -> str:
    """The caption with U+FFFD for each half of a surrogate pair; two halves that belong together become their character."""
    if not _SURROGATE.search(caption):
        return caption
    return caption.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _lines(caption: str) -> Iterator[str]:
    """All of the caption in lines of at most LINE characters, without NULs: the trainer passes over a line that has one."""
    for part in _valid(caption).split("\0"):
        for start in range(0, len(part), LINE):
            yield part[start : start + LINE]
