"""The language model's training: its model, engine, rows of token shards, loss and export."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.blend import Blend
from hitvideo.data.loader import Batches, split
from hitvideo.data.rows import TokenSource
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.files import replace_json, replacing
from hitvideo.llm.init import initialize
from hitvideo.llm.layers import DenseLayers, Layers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import Block
from hitvideo.ops.precision import DTYPES
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import Topology
from hitvideo.planning.flops import training_flops_per_row
from hitvideo.runs.writer import RunWriter
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from pretrain.task import Cost, OpenRun, Task, learning_rate, make_batches

log = logging.getLogger(__name__)


class LanguageModelTask(Task):
    """Trains the language model on rows of captions and codes."""

    def __init__(self, settings: PretrainRun, run: OpenRun, dataset: TokenDataset | Blend) -> None:
        self.settings, self.dataset = settings, dataset
        layout = make_layout(settings)
        text = text_tokenizer(settings, dataset, run.directory)
        if run.directory.writer:  # generation then needs neither the token shards nor this working directory
            replace_json(run.directory.video_tokenizer_file, dataset.manifest["video_tokenizer"])
        data, train, seed = settings.data, settings.train, settings.run.seed
        training, held_out = split(len(dataset), data.validation_samples)
        validating = train.validation_batches > 0 and len(held_out) > 0

        def batches(samples: range, caption_dropout: float) -> Batches:
            source = TokenSource(dataset, layout, text, seed, caption_dropout)
            return make_batches(settings, run.topology, source, samples, data.read_together, data.workers)

        model = make_model(settings, run.topology)
        self._cost = Cost(layout.length, training_flops_per_row(model))
        super().__init__(
            settings,
            run,
            Engine(model, run.topology, settings.parallel, train, leaf_modules=[Block]),
            batches(training, data.caption_dropout),
            batches(held_out, 0.0) if validating else None,
            config.fingerprint(settings.llm, settings.hierarchy, settings.clip, settings.text, dataset.digest),
        )

    def set_lr(self, step: int) -> float:
        lr = learning_rate(self.settings.train, step)
        self.engine.set_lr(lr)
        return lr

    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return self.validate(batch)

    def validate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.engine(batch, self.settings.train.text_loss_weight, self.settings.train.level_balance)

    def cost(self, step: int) -> Cost:
        return self._cost

    def sample_key(self, index: int) -> str:
        return self.dataset[index].key

    def write_weights(self, checkpoint: Path) -> None:
        """`weights/model.safetensors`: the whole model, merged on one CPU."""
        weights = Reader(checkpoint).weights(DTYPES[self.settings.train.dtype])
        with replacing(self.directory.model_file) as file:
            save_file({name: tensor.contiguous() for name, tensor in weights}, file)


def make_model(settings: PretrainRun, topology: Topology) -> LanguageModel:
    """The model, or this tensor-parallel rank's share of it, with its initial weights."""
    parallel = settings.parallel
    layers: Layers = DenseLayers()
    trunk_layers: Layers | None = None
    if topology.tensor * topology.context > 1:
        from hitvideo.parallel.layers import MegatronLayers

        layers = MegatronLayers(topology.tensor, torch.float32)
        if parallel.sequence or parallel.context > 1:
            trunk_layers = MegatronLayers(topology.tensor, torch.float32, parallel.sequence, parallel.context > 1)
    model = LanguageModel(settings.llm, make_layout(settings), layers, trunk_layers, parallel.activation_checkpointing)
    initialize(
        model, settings.llm.width, settings.llm.layers, settings.run.seed, topology.tensor_rank, topology.tensor
    )
    return model


def text_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend, directory: RunWriter) -> TextTokenizer:
    """The run's own copy of its text tokenizer. If text.model is not set, it is trained on the dataset's captions."""
    if directory.writer and not directory.text_tokenizer_file.is_file():
        if settings.text.model:
            text = TextTokenizer.load(settings.text.model)
        else:
            text = TextTokenizer.train(dataset.captions(), settings.text.vocab_size)
            log.info("text.model is not set: trained a text tokenizer of %d pieces on the captions", text.size)
        text.save(directory.text_tokenizer_file)
    dist.barrier()
    return directory.text_tokenizer()


def check_video_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend) -> None:
    """Raises ConfigError if the token shards were made with another video tokenizer than the run names."""
    named = settings.video_tokenizer.weights
    if named is None:
        return
    from hitvideo.video_tokenizer.weights import weights_fingerprint

    ours, found = weights_fingerprint(Path(named)), dataset.manifest["video_tokenizer"]["fingerprint"]
    if ours != found:
        raise ConfigError(
            f"video_tokenizer.weights {named} has fingerprint {ours}, the shards of {dataset.path} were made with "
            f"{found}; name that tokenizer, or tokenize again with this one"
        )
