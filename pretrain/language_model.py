"""The language model as a job of the training loop."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.blend import Blend
from hitvideo.data.loader import split
from hitvideo.data.rows import TokenSource
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.files import replacing
from hitvideo.llm.init import initialize
from hitvideo.llm.layers import DenseLayers, Layers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import Block
from hitvideo.ops.precision import DTYPES
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import Topology
from hitvideo.planning.flops import mfu, training_flops_per_row
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.tracking import Tracker
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from pretrain.loop import Cost, Job, batches_of, learning_rate

log = logging.getLogger(__name__)


def make_job(
    settings: PretrainRun, dataset: TokenDataset | Blend, topology: Topology, directory: RunDirectory, tracker: Tracker
) -> Job:
    """Model, engine and data of a run, ready for the loop."""
    layout = make_layout(settings)
    text = text_tokenizer(settings, dataset, directory)
    source = TokenSource(dataset, layout, text, settings.run.seed, settings.data.caption_dropout)
    whole = TokenSource(dataset, layout, text, settings.run.seed, caption_dropout=0.0)
    training, held_out = split(len(dataset), settings.data.validation_samples)
    batches = batches_of(settings, topology, settings.data.read_together, settings.data.workers)
    model = make_model(settings, topology)
    cost = Cost(layout.length, training_flops_per_row(model))
    engine = Engine(model, topology, settings.parallel, settings.train, leaf_modules=[Block])
    weights = settings.train.text_loss_weight, settings.train.level_balance

    def set_lr(step: int) -> float:
        lr = learning_rate(settings.train, step)
        engine.set_lr(lr)
        return lr

    validating = settings.train.validation_batches > 0 and len(held_out) > 0
    return Job(
        engine=engine,
        directory=directory,
        tracker=tracker,
        train=settings.train,
        checkpoint=settings.checkpoint,
        fingerprint=config.fingerprint(settings.llm, settings.hierarchy, settings.clip, settings.text, dataset.digest),
        batches=batches(source, training),
        set_lr=set_lr,
        losses=lambda rows, _step: engine(rows, *weights),
        validation=batches(whole, held_out) if validating else None,
        validate=lambda rows: engine(rows, *weights),
        export=lambda checkpoint: write_weights(checkpoint, directory, settings),
        cost=lambda _step: cost,
        utilisation=lambda rate: mfu(rate, topology.world, settings.cluster),
        key=lambda index: dataset[index].key,
        faults=settings.faults,
    )


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


def text_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend, directory: RunDirectory) -> TextTokenizer:
    """The run's own copy of its text tokenizer; without a given one it is trained on the dataset's captions."""
    own = directory.path / "text_tokenizer.model"
    if directory.writer and not own.is_file():
        if settings.text.model:
            text = TextTokenizer.load(settings.text.model)
        else:
            text = TextTokenizer.train(dataset.captions(), settings.text.vocab_size)
            log.warning("text.model is not set: trained a text tokenizer of %d pieces on the captions", text.size)
        text.save(own)
    dist.barrier()
    return TextTokenizer.load(own)


def write_weights(checkpoint: Path, directory: RunDirectory, settings: PretrainRun) -> None:
    """`weights/`: everything that generation needs, merged on one CPU."""
    directory.weights.mkdir(exist_ok=True)
    weights = dict(Reader(checkpoint).weights(DTYPES[settings.train.dtype]))
    with replacing(directory.weights / "model.safetensors") as file:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)


def _check_tokenizer(settings: PretrainRun, dataset: TokenDataset | Blend) -> None:
    """Refuse token shards of another video tokenizer than the one the run names."""
    named = settings.video_tokenizer.weights
    if named is None:
        return
    from hitvideo.video_tokenizer.weights import weights_fingerprint

    found = dataset.manifest["video_tokenizer"]["fingerprint"]
    if weights_fingerprint(Path(named)) != found:
        raise ConfigError(
            f"video_tokenizer.weights {named} has fingerprint {weights_fingerprint(Path(named))}, the shards of "
            f"{dataset.path} were made with {found}; name that tokenizer, or tokenize again with this one"
        )
