"""The language model's training: its model, engine, rows of token shards, loss and export."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.checkpoints.listing import Fingerprint, step_of
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.blend import Blend
from hitvideo.data.loader import Batches, split
from hitvideo.data.rows import TokenSource, check_levels
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError, ShardError
from hitvideo.files import replace_json, replacing
from hitvideo.llm.compiled import compile_trunk
from hitvideo.llm.init import Law
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import Block
from hitvideo.ops.norm import use_apex
from hitvideo.ops.precision import DTYPES
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.initial import draw_weights
from hitvideo.parallel.share import share_of_model
from hitvideo.planning.flops import meta_model, training_flops_per_row
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.writer import RunWriter
from hitvideo.sequence.corruption import corrupted
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import MOST_CAPTIONS, TextTokenizer
from hitvideo.settings.programs import PretrainRun
from pretrain.data_checks import log_cut_captions
from pretrain.task import Cost, OpenRun, Rehearsal, Task, learning_rate, make_batches

_GROUPED_SALT = 0x6209
_LONGEST_TRAINING = 3600.0
_MOST_UNASKED = 200_000  # samples; a text tokenizer on more takes long, on one thread, while all other ranks wait

log = logging.getLogger(__name__)


class LanguageModelTask(Task):
    """Trains the language model on rows of captions and codes."""

    def __init__(self, settings: PretrainRun, run: OpenRun, dataset: TokenDataset | Blend) -> None:
        self.settings, self.dataset = settings, dataset
        self._seen: Iterator[torch.Tensor] = iter(())
        layout = self._layout = make_layout(settings)
        text = text_tokenizer(settings, dataset, run.directory)
        keep_video_tokenizer(settings, dataset, run.directory)
        data, train, seed = settings.data, settings.train, settings.run.seed
        training, held_out = split(len(dataset), data.validation_samples)
        validating = train.validation_batches > 0 and len(held_out) > 0

        def batches(samples: range, caption_dropout: float) -> Batches:
            source = TokenSource(dataset, layout, text, seed, caption_dropout)
            return make_batches(settings, run.topology, source, samples, data.read_together, data.workers)

        if run.directory.writer:
            log_cut_captions(TokenSource(dataset, layout, text, seed, 0.0))
        model = make_model(settings)
        if train.norm == "apex":
            use_apex(model, run.topology.device)
        if train.compile:
            compile_trunk(model.trunk, run.topology.device, whole=run.topology.tensor * run.topology.context == 1)
        self._costs = [Cost(layout.length, training_flops_per_row(meta_model(settings), grouped=share)) for share in (0.0, 1.0)]
        super().__init__(
            settings,
            run,
            Engine(model, run.topology, settings.parallel, train, leaf_modules=[Block]),
            batches(training, data.caption_dropout),
            batches(held_out, 0.0) if validating else None,
            data_fingerprint(settings, dataset),
        )

    def set_lr(self, step: int) -> float:
        lr = learning_rate(self.settings.train, step)
        self.engine.set_lr(lr)
        return lr

    def prepare(self, batches: Sequence[torch.Tensor], step: int) -> None:
        """Make what the input shows of each micro-batch, if that differs from the batch."""
        share, seed = self.settings.train.corrupt, self.settings.run.seed
        self._seen = iter(
            _pinned_like(batch, torch.from_numpy(corrupted(batch.numpy(), self._layout, share, seed, step, places.tolist())))
            for batch, places in zip(batches, self.training.places, strict=True)
            if share
        )

    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        seen, train = next(self._seen, None), self.settings.train
        shown = batch if seen is None else seen.to(batch.device, non_blocking=True)
        grouped = self._grouped(step)
        losses = self.engine(batch, train.text_loss_weight, train.level_balance, shown, grouped)
        return losses | {"grouped": torch.tensor(float(grouped))} if self.settings.grouped_share else losses

    def validate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """In raster order, and if the run trains in it, in the order of llm.groups: `grouped_loss`, `grouped_loss_level_k`."""
        weights = (self.settings.train.text_loss_weight, self.settings.train.level_balance)
        losses = self.engine(batch, *weights)
        if not self.settings.grouped_share:
            return losses
        return losses | {f"grouped_{name}": value for name, value in self.engine(batch, *weights, None, True).items()}

    def _grouped(self, step: int) -> bool:
        """Whether the rows of a step are in grouped order: the same on every rank, of whatever layout."""
        return bool(np.random.default_rng((self.settings.run.seed, _GROUPED_SALT, step)).random() < self.settings.grouped_share)

    def draw(self) -> None:
        llm = self.settings.llm
        law = Law(llm.width, llm.layers, self.settings.run.seed)
        draw_weights(self.engine, law, lambda: self.heartbeat.beat("draw weights", 0))

    def load_state(self, state: dict[str, Any]) -> None:
        self._seen = iter(())

    def rehearsals(self, step: int) -> list[Rehearsal]:
        """One for each order that is still to come: rows in raster order have the same length, and those in grouped order."""
        rows, layout = self.train.micro_batch, self._layout
        codes = np.zeros((rows, layout.length - layout.window - 1), np.int64)
        first: dict[bool, int] = {}
        for later in range(step, self.train.steps):
            first.setdefault(self._grouped(later), later)
            if len(first) == (2 if 0 < self.settings.grouped_share < 1 else 1):
                break
        return [
            Rehearsal(
                f"rows of {layout.input_slots(grouped) + 1} tokens", first[grouped],
                lambda: torch.from_numpy(layout.join_rows([[]] * rows, codes)),
            )
            for grouped in sorted(first)
        ]  # fmt: skip

    def cost(self, step: int) -> Cost:
        return self._costs[self._grouped(step)]

    def sample_key(self, index: int) -> str:
        try:
            return self.dataset[index].key
        except ShardError:  # damaged, and so not in the batch itself
            return self.dataset.place(index)

    def write_weights(self, checkpoint: Path) -> None:
        """`weights/model.safetensors`: the whole model, merged on one CPU."""
        merged = {}
        for name, tensor in Reader(checkpoint).weights(DTYPES[self.settings.train.dtype]):
            merged[name] = tensor.contiguous()
            self.heartbeat.beat("write weights", step_of(checkpoint))
        with replacing(self.directory.model_file) as file:
            save_file(merged, file)


def _pinned_like(batch: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """`shown` in pinned memory if `batch` is: a copy to the device then waits for nothing."""
    return shown.pin_memory() if batch.is_pinned() else shown


def make_model(settings: PretrainRun) -> LanguageModel:
    """The model, or this tensor-parallel rank's share of it, on the meta device: the engine gives it memory."""
    with torch.device("meta"):
        return share_of_model(settings)


def text_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend, directory: RunWriter) -> TextTokenizer:
    """The run's own copy of its text tokenizer. If text.model is not set, it is trained on the dataset's captions."""
    if directory.writer and not directory.text_tokenizer_file.is_file():
        if settings.text.model:
            text = TextTokenizer.load(settings.text.model)
        else:
            captions = dataset.captions(MOST_CAPTIONS, settings.run.seed)
            text = TextTokenizer.train(captions, settings.text.vocab_size)
            log.info("text.model is not set: trained a text tokenizer of %d pieces on the captions", text.size)
        text.save(directory.text_tokenizer_file)
    deadline = time.monotonic() + _LONGEST_TRAINING
    while not directory.text_tokenizer_file.is_file() and time.monotonic() < deadline:
        time.sleep(1.0)  # not in the barrier, which ends with an error after some minutes
    dist.barrier()
    return directory.text_tokenizer()


def data_fingerprint(settings: PretrainRun, dataset: TokenDataset | Blend) -> Fingerprint:
    """Identifies the token shards in checkpoints."""
    former = config.fingerprint(settings.llm, settings.hierarchy, settings.clip, settings.text, dataset.digest)
    return Fingerprint(f"data-{config.fingerprint(dataset.digest)}", former)


def check_data(settings: PretrainRun, dataset: TokenDataset | Blend) -> None:
    """Raise ConfigError if hierarchy, text tokenizer or video tokenizer do not fit the dataset; needs no ranks."""
    layout, run = make_layout(settings), RunDirectory(settings.run.directory)
    check_levels(dataset, layout)
    check_video_tokenizer(settings, dataset)
    text_model = run.text_tokenizer_file if run.begun and run.text_tokenizer_file.is_file() else settings.text.model
    if text_model:
        TokenSource(dataset, layout, TextTokenizer.load(text_model), settings.run.seed, 0.0)
    elif len(dataset) > _MOST_UNASKED:
        raise ConfigError(
            f"text.model is null, and data.manifest has {len(dataset)} samples; a start trains a text tokenizer on at "
            f"most {_MOST_UNASKED}; run `hitvideo data text-tokenizer MANIFEST OUT.model` and set text.model=OUT.model"
        )


def keep_video_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend, directory: RunWriter) -> None:
    """Write which video tokenizer made the tokens, and keep its weights: generation then needs nothing outside the run."""
    if not directory.writer:
        return
    from hitvideo.video_tokenizer.weights import find_weights, keep_weights

    known = dataset.manifest["video_tokenizer"]
    recorded = known.get("weights") or None
    found = find_weights([settings.video_tokenizer.weights, recorded, directory.video_tokenizer_copy], known["fingerprint"])
    path = str(Path(found or recorded or "").absolute()) if found or recorded else None
    replace_json(directory.video_tokenizer_file, {"fingerprint": known["fingerprint"], "weights": path})
    if not found:
        place = path or "any path"
        log.warning("the tokens' video tokenizer is not at %s: `hitvideo generate` will need --video-tokenizer", place)
    elif found != directory.video_tokenizer_copy and not keep_weights(found, directory.video_tokenizer_copy):
        log.info("the video tokenizer is large and not copied: `hitvideo generate` reads it from %s", path)


def check_video_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend) -> None:
    """Raises ConfigError if the token shards were made with another video tokenizer than the run names."""
    named = settings.video_tokenizer.weights
    if named is None:
        return
    from hitvideo.video_tokenizer.weights import weights_fingerprint

    try:
        ours, found = weights_fingerprint(Path(named)), dataset.manifest["video_tokenizer"]["fingerprint"]
    except ConfigError as error:
        raise ConfigError(f"video_tokenizer.weights: {error}") from error
    if ours != found:
        raise ConfigError(
            f"video_tokenizer.weights {named} has fingerprint {ours}, the shards of {dataset.path} were made with "
            f"{found}; name that tokenizer, or tokenize again with this one"
        )
