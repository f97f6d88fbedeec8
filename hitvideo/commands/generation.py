"""What the `hitvideo` commands do with their parsed words. Heavy imports stand inside, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from hitvideo import config
from hitvideo.config import ConfigError

EXAMPLES = 4


def show_config(words: argparse.Namespace) -> None:
    from hitvideo.settings import programs

    run = programs.load(words.run, words.override)
    print(config.to_yaml(run), end="")
    print("# derived")
    for key, value in _derived(run).items():
        print(f"#   {key}: {value}")


def _derived(run: Any) -> dict[str, Any]:
    from hitvideo.settings import programs

    if isinstance(run, programs.TokenizeRun):
        return {"clip and hierarchy": "those of video_tokenizer.weights"}
    extent = run.video.extent
    figures: dict[str, Any] = {
        "grids": [tuple(grid) for grid in run.hierarchy.grids(extent)],
        "tokens per clip": run.hierarchy.tokens(extent),
        "bits per pixel": round(run.hierarchy.bits_per_pixel, 6),
        "compression": round(run.hierarchy.compression, 1),
    }
    if isinstance(run, programs.PretrainRun):
        from hitvideo.planning.flops import meta_model

        model = meta_model(run)
        ranks = run.cluster.nodes * run.cluster.devices_per_node // (run.parallel.tensor * run.parallel.context)
        figures |= {"sequence length": model.layout.length, "parameters": sum(p.numel() for p in model.parameters())}
        figures |= {"gradient accumulation": f"{run.train.accumulation(max(ranks, 1))} on {max(ranks, 1)} data-parallel ranks"}
    return figures


def show_plan(words: argparse.Namespace) -> None:
    from dataclasses import asdict

    from hitvideo.planning import language_model, video_tokenizer
    from hitvideo.settings import programs

    run = programs.load(words.run, words.override)
    if isinstance(run, programs.TokenizeRun):
        raise ConfigError(f"{words.run}: there is nothing to plan for tokenize_shards; give a run that trains")
    figures = asdict(language_model.plan(run) if isinstance(run, programs.PretrainRun) else video_tokenizer.plan(run))
    if words.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:26} {value:,.3f}" if isinstance(value, float) else f"{key:26} {value:{',' * isinstance(value, int)}}")
    fits = figures["total_gib"] <= figures["available_gib"]
    print("fits" if fits else "does NOT fit: use more devices, a larger parallel.tensor or activation_checkpointing=block")


def export(words: argparse.Namespace) -> None:
    from hitvideo.checkpoints.export import export
    from hitvideo.parallel.engine import DTYPES

    checkpoint = export(words.run, words.out, words.names, DTYPES[words.dtype])
    print(f"{words.out}: weights of {checkpoint}")


def inspect(words: argparse.Namespace) -> None:
    from hitvideo.reports.inspection import decode_sample, describe

    if words.decode:
        from hitvideo.video.decode import contact_sheet

        out = words.out or Path(f"{Path(words.decode).name}.png")
        contact_sheet(decode_sample(words.file, words.decode, words.weights), out)
        print(f"{out}: with 1, 2, … levels, one row each")
        return
    figures = describe(words.file)
    if words.json:
        print(json.dumps(figures))
        return
    rows = figures.pop("levels", figures.pop("samples", []))
    for key, value in figures.items():
        print(f"{key:14} {value}")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def doctor(words: argparse.Namespace) -> None:
    from hitvideo.reports.inspection import doctor

    findings = doctor()
    if words.json:
        print(json.dumps(findings))
        return
    for key, value in findings.items():
        print(f"{key:20} {value}")


def _sampling(words: argparse.Namespace) -> Any:
    from hitvideo.generation.sampling import Sampling

    return Sampling(words.guidance, words.temperature, words.top_k, words.top_p)


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _bar(total: int | None, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty())


def generate(words: argparse.Namespace) -> None:
    from hitvideo.generation.engine import load_run
    from hitvideo.runs.gallery import save_videos
    from hitvideo.video.decode import contact_sheet, write_mp4

    generator = load_run(words.run, _device(), words.video_tokenizer)
    layout, levels = generator.model.layout, words.levels or generator.levels
    with _bar(layout.starts[min(levels, generator.levels)] - layout.window, "token") as bar:
        videos = generator.videos(words.prompt, _sampling(words), levels, words.seed, bar.update)
    if words.out is None:
        title = f"Generated: guidance {words.guidance:g}, {levels} levels, seed {words.seed}"
        name = f"generate-levels{levels}-seed{words.seed}"
        for path in save_videos(words.run, name, title, list(zip(words.prompt, videos, strict=True)), generator.clip.fps):
            print(path)
        return
    words.out.parent.mkdir(parents=True, exist_ok=True)
    paths = [words.out] if len(videos) == 1 else [words.out.with_stem(f"{words.out.stem}-{n}") for n in range(len(videos))]
    for path, video, prompt in zip(paths, videos, words.prompt, strict=True):
        write_mp4(path, video, generator.clip.fps)
        contact_sheet([video], path.with_suffix(".png"))
        print(f"{path}  {prompt}")


def reconstruct(words: argparse.Namespace) -> None:
    import torch

    from hitvideo.settings.training import LimitsSection
    from hitvideo.tokenizer.video_tokenizer import load
    from hitvideo.video.decode import contact_sheet, decode_clip, to_uint8, to_unit

    tokenizer, clip = load(words.weights, _device())
    frames = decode_clip(words.video, clip, LimitsSection(), name=str(words.video))
    codes = tokenizer.encode(torch.from_numpy(to_unit(frames))[None].to(_device()))
    rows = [frames]
    for k in range(1, len(codes) + 1):
        rows.append(to_uint8(tokenizer.decode(codes[:k], clip.frames)[0].cpu().numpy()))
    contact_sheet(rows, words.out)
    print(words.out)


def slurm(words: argparse.Namespace) -> None:
    from hitvideo.cluster import script as jobs

    extra = jobs.cluster_words(words.cluster) if words.cluster else []
    text = jobs.script(words.run, [*extra, *words.override], words.nodes)
    print(f"submitted job {jobs.submit(text)}" if words.submit else text, end="\n" if words.submit else "")


def evaluate_reconstruction(words: argparse.Namespace) -> None:
    from hitvideo.data.clips import ClipSource
    from hitvideo.data.pack import pack
    from hitvideo.data.video_shards import list_shards
    from hitvideo.evaluation import reconstruction
    from hitvideo.metrics.i3d import load_i3d
    from hitvideo.metrics.lpips import load_lpips
    from hitvideo.runs.gallery import save_figures
    from hitvideo.settings.training import LimitsSection
    from hitvideo.tokenizer.video_tokenizer import load

    tokenizer, clip = load(words.run / "weights", _device())
    judges = reconstruction.Judges(
        load_lpips(words.lpips_weights, _device()) if words.lpips_weights else None,
        load_i3d(words.fvd_weights, _device()) if words.fvd_weights else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        if words.videos:
            pack(words.videos, Path(folder), per_shard=64)
        source = ClipSource(list_shards(words.video_shards or folder), clip, LimitsSection())
        samples = range(max(0, len(source) - words.clips), len(source))
        with _bar(len(samples), "clip") as bar:
            figures = reconstruction.reconstruction(tokenizer, source, samples, bar.update, judges)
        reconstruction.show_reconstructions(tokenizer, source, samples[:EXAMPLES], words.run)
    save_figures(words.run, "reconstruction", figures)
    print(json.dumps(figures) if words.json else reconstruction.reconstruction_table(figures))


def evaluate_captions(words: argparse.Namespace) -> None:
    from hitvideo.evaluation import reconstruction
    from hitvideo.generation.engine import load_run
    from hitvideo.runs.gallery import save_figures, save_videos

    generator = load_run(words.run, _device(), words.video_tokenizer)
    layout = generator.model.layout
    with _bar(layout.starts[-1] - layout.window, "token") as bar:
        figures, prompts, videos = reconstruction.caption_accuracy(
            generator, words.num, _sampling(words), words.seed, bar.update
        )
    save_figures(words.run, "captions", figures)
    shown = list(zip(prompts, videos, strict=True))[: 2 * EXAMPLES]
    save_videos(words.run, "prompts", f"Prompts, guidance {words.guidance:g}", shown, generator.clip.fps)
    reconstruction.show_guidance(generator, prompts[:EXAMPLES], _sampling(words), words.run)
    print(json.dumps(figures))


def report(words: argparse.Namespace) -> None:
    from hitvideo.reports.page import write

    print(json.dumps(write(words.run)))


def data_pack(words: argparse.Namespace) -> None:
    from hitvideo.data.pack import pack

    with _bar(None, "video") as bar:
        summary = pack(words.src, words.out, words.per_shard, bar.update)
    print(
        f"{words.out}: {summary.packed} videos in {len(summary.shards)} video shards; "
        f"{summary.found} found = {summary.packed} packed + {len(summary.no_caption)} without caption"
    )


def data_moving_shapes(words: argparse.Namespace) -> None:
    from hitvideo.data.pack import write_moving_shapes
    from hitvideo.hierarchy import Clip

    clip = Clip(frames=8, height=32, width=32, fps=8)
    if words.hierarchy:
        content = config.resolve(words.hierarchy)
        if "video" not in content:
            raise ConfigError(f"{words.hierarchy}: has no `video:` section to take length and size from")
        clip = config.build(Clip, content["video"], f"{words.hierarchy}: video")
    with _bar(words.num, "clip") as bar:
        shards = write_moving_shapes(words.out, words.num, words.seed, clip, words.objects, words.per_shard, bar.update)
    print(f"{words.out}: {words.num} clips in {len(shards)} video shards")


def data_text_tokenizer(words: argparse.Namespace) -> None:
    from hitvideo.data.token_shards import TokenDataset
    from hitvideo.sequence.text import TextTokenizer

    dataset = TokenDataset(words.manifest)
    text = TextTokenizer.train(dataset.captions(), words.vocab_size)
    text.save(words.out)
    print(f"{words.out}: {text.size} pieces from the captions of {len(dataset)} samples")


def data_verify(words: argparse.Namespace) -> int:
    from hitvideo.data.verify import verify

    faults = 0
    for fault in verify(words.manifest):
        faults += 1
        print(fault, file=sys.stderr)
    print(f"{words.manifest}: " + (f"{faults} faults" if faults else "every receipt, checksum and sample is as it says"))
    return 1 if faults else 0
