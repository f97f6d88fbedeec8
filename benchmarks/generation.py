"""Benchmark of generation: our plans against Hugging Face's `generate` and a plain loop in torch, all of the same trunk.

    python -m benchmarks.generation [RUN] [--videos 1 8] [--rounds 3] [--compile]

RUN is a run directory, or a RUN.yaml of `python -m pretrain`, whose model then has random weights: the passes of jacobi say
nothing about a trained model's. All draw the same number of tokens with guidance, both halves in one batch, in bf16 on a GPU
and fp32 on a CPU. They take turns in one process; the best of a side's turns counts. Hugging Face's is a Llama, or Qwen3 where
the run has `llm.qk_norm`, with one output for the entries of a sub-code, and its guidance and its draw are a processor of
logits. The plain loop is written as gpt-fast's: one preallocated cache, one slot a pass, a race against exponential noise; with
--compile also with its compiled step, whose slot is a tensor. At last 64 prompts are drawn under a limit of memory, and the
process's peak is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList, Qwen3Config, Qwen3ForCausalLM

from hitvideo.generation import plans
from hitvideo.generation.engine import Drawn, Request, draw
from hitvideo.generation.generator import Generator, load_generator
from hitvideo.generation.memory import GIB, bytes_per_video
from hitvideo.generation.record import Fingerprints
from hitvideo.generation.sampling import Plan, Sampling
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.rope import Rotation, rotate, rotation
from hitvideo.measuring.ceilings import copy_rate
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun, load_settings_as

TINY = Path(__file__).resolve().parents[1] / "yaml_configs/pretrain/tiny.yaml"
SAMPLING = Sampling()
PROMPTS, AT_ONCE = 64, 10
PROMPT = "a red circle moves right"


def load(path: Path, device: torch.device) -> tuple[LanguageModel, TextTokenizer]:
    if path.suffix not in (".yaml", ".yml"):
        generator = load_generator(path, device)
        return generator.model, generator.text
    settings = load_settings_as(PretrainRun, path, ["data.manifest=none"])
    model = LanguageModel(settings.llm, make_layout(settings))
    initialize(model, settings.llm.width, settings.llm.layers, seed=0)
    model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).heads.float()
    return model.eval(), TextTokenizer.train([PROMPT] * 3, 300)


def guided(logits: torch.Tensor) -> torch.Tensor:
    """Logits of both halves (2 B, entries) → the guided ones with the noise of a draw: their argmax is the entry, the same for
    both halves."""
    conditional, unconditional = logits.float().chunk(2)
    mixed = unconditional + cast(float, SAMPLING.guidance) * (conditional - unconditional)
    mixed = mixed / cast(float, SAMPLING.temperature)
    return (mixed - torch.empty_like(mixed).exponential_().log()).repeat(2, 1)


class Guided(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return guided(scores)


class HuggingFace:
    """Its `generate` with a cache of its own."""

    def __init__(self, model: LanguageModel, cache: str) -> None:
        llm, self.window, self.cache = model.section, model.layout.window, cache
        self.tokens, entries = model.layout.length - 1 - self.window, model.layout.vocab.ranges[0][0].size
        kind, of_kind = (Qwen3ForCausalLM, Qwen3Config) if llm.qk_norm else (LlamaForCausalLM, LlamaConfig)
        config = of_kind(
            hidden_size=llm.width, intermediate_size=llm.hidden, num_hidden_layers=llm.layers, vocab_size=entries,
            num_attention_heads=llm.heads, num_key_value_heads=llm.kv_heads, head_dim=llm.head_dim, tie_word_embeddings=False,
            max_position_embeddings=model.layout.length, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        self.model: Any = kind(config).to(model.level.weight.device, model.level.weight.dtype).eval()

    def __call__(self, videos: int) -> int:
        ids = torch.zeros(2 * videos, self.window, dtype=torch.long, device=self.model.device)
        length = {"max_new_tokens": self.tokens, "min_new_tokens": self.tokens}
        processors = LogitsProcessorList([Guided()])
        out: Any = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True, cache_implementation=self.cache,
            logits_processor=processors, **length,
        )  # fmt: skip
        assert out.shape == (2 * videos, self.window + self.tokens)
        return self.tokens


class PlainLoop:
    """Decoding with our trunk's weights, without modules for caches, plans or levels."""

    def __init__(self, model: LanguageModel) -> None:
        self.window, self.length = model.layout.window, model.layout.length - 1
        self.model: Any = model
        device, self.head_dim = model.level.weight.device, model.section.head_dim
        self.turn = rotation(torch.arange(self.length, device=device)[:, None].float(), (self.head_dim,), 10000.0)

    @torch.no_grad()
    def __call__(self, videos: int) -> int:
        weight, llm = self.model.level.weight, self.model.section
        shape = (llm.layers, 2, 2 * videos, self.length, llm.kv_heads, self.head_dim)
        cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        fresh = torch.zeros(2 * videos, self.window, dtype=torch.long, device=weight.device)
        for slot in range(self.window, self.length):
            hidden = self._forward(fresh, slot - fresh.shape[1], cache)
            output = self.model.heads[0].outputs[0]
            fresh = guided(output(hidden[:, -1].to(output.weight.dtype))).argmax(-1, keepdim=True)
        return self.length - self.window

    def _forward(self, ids: torch.Tensor, start: int, cache: torch.Tensor) -> torch.Tensor:
        x, stop = self.model.embedding(ids), start + ids.shape[1]
        turn = Rotation(self.turn.cos[start:stop], self.turn.sin[start:stop])
        for layer, block in enumerate(self.model.trunk.blocks):
            normed = block.attention_norm(x)
            q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in block.attention.qkv(normed))
            if self.model.section.qk_norm:
                q, k = block.attention.q_norm(q), block.attention.k_norm(k)
            cache[layer, 0, :, start:stop], cache[layer, 1, :, start:stop] = rotate(k, turn), v
            keys, values = (part[:, :stop].transpose(1, 2) for part in cache[layer])
            grouped = {"is_causal": start == 0, "enable_gqa": keys.shape[1] != q.shape[2]}
            mixed = F.scaled_dot_product_attention(rotate(q, turn).transpose(1, 2), keys, values, **grouped)
            x = x + block.attention.out(mixed.transpose(1, 2).flatten(-2))
            x = x + block.mlp(block.mlp_norm(x))
        out: torch.Tensor = self.model.trunk.norm(x)
        return out


class CompiledLoop(PlainLoop):
    """The same with gpt-fast's compiled step: of one shape, so attention reads the whole cache, under a mask by the slot."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        mode = "reduce-overhead" if model.level.weight.device.type == "cuda" else None  # CUDA graphs
        self.step = torch.compile(self._step, dynamic=False, mode=mode)

    @torch.no_grad()
    def __call__(self, videos: int) -> int:
        weight, llm = self.model.level.weight, self.model.section
        shape = (llm.layers, 2, 2 * videos, self.length, llm.kv_heads, self.head_dim)
        stored = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        cache = list(stored.flatten(0, 1).unbind())  # a tensor for each layer: of one for all, a compiled step copies all
        slots = torch.arange(self.length, device=weight.device)
        hidden = self._forward(torch.zeros(2 * videos, self.window, dtype=torch.long, device=weight.device), 0, stored)[:, -1]
        for slot in range(self.window, self.length):
            output = self.model.heads[0].outputs[0]
            fresh = guided(output(hidden.to(output.weight.dtype))).argmax(-1, keepdim=True)
            if slot + 1 < self.length:
                hidden = self.step(fresh, slots[slot : slot + 1], cache)[:, -1].clone()
        return self.length - self.window

    def _step(self, ids: torch.Tensor, slot: torch.Tensor, cache: list[torch.Tensor]) -> torch.Tensor:
        x, turn = self.model.embedding(ids), Rotation(self.turn.cos[slot], self.turn.sin[slot])
        seen = torch.arange(self.length, device=ids.device) <= slot[:, None]
        for layer, block in enumerate(self.model.trunk.blocks):
            parts = block.attention.qkv(block.attention_norm(x))
            q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
            if self.model.section.qk_norm:
                q, k = block.attention.q_norm(q), block.attention.k_norm(k)
            keys, values = cache[2 * layer], cache[2 * layer + 1]
            keys.index_copy_(1, slot, rotate(k, turn))
            values.index_copy_(1, slot, v)
            queries, keys, values = (part.transpose(1, 2) for part in (rotate(q, turn), keys, values))
            grouped = keys.shape[1] != queries.shape[1]
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, enable_gqa=grouped)
            x = x + block.attention.out(mixed.transpose(1, 2).flatten(-2))
            x = x + block.mlp(block.mlp_norm(x))
        out: torch.Tensor = self.model.trunk.norm(x)
        return out


def compare(model: LanguageModel, text: TextTokenizer, videos: int, rounds: int, compiled: bool) -> None:
    """Print what every side takes for this many videos."""
    weight, llm, layout = model.level.weight, model.section, model.layout
    tokens, levels = layout.length - 1 - layout.window, {}

    def ours(plan: Plan) -> int:
        drawn = draw(model, text, [Request(PROMPT, n) for n in range(videos)], Sampling(**{**vars(SAMPLING), "plan": plan}))
        levels[plan] = drawn
        return sum(drawn.passes)

    offered = plans.offered(layout)
    sides: dict[str, Callable[[], int]] = {plan: lambda plan=plan: ours(plan) for plan in offered}  # type: ignore[misc]
    for cache in ("dynamic", "static"):
        side = HuggingFace(model, cache)
        sides[f"Hugging Face, {cache} cache"] = lambda side=side: side(videos)  # type: ignore[misc]
    plain = PlainLoop(model)
    sides["plain loop"] = lambda: plain(videos)
    if compiled:
        step = CompiledLoop(model)
        begin = time.perf_counter()
        step(videos)
        print(f"\ncompiling the plain loop's step: {time.perf_counter() - begin:.0f} s, its first video included", flush=True)
        sides["plain loop, compiled"] = lambda: step(videos)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    passes: dict[str, int] = {}
    for turn in range(rounds + 1):  # the first is a warm-up
        for name, each in sides.items():
            begin = time.perf_counter()
            passes[name] = each()
            _finish(weight.device)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    rate = copy_rate(weight.device) / 2  # bytes that it reads
    weights = sum(parameter.numel() for parameter in model.trunk.parameters()) * weight.element_size()
    slot = 2 * 2 * llm.layers * llm.kv_heads * llm.head_dim * weight.element_size()
    cache_bytes = videos * slot * (layout.window + tokens / 2)  # half full on average
    first, theirs = min(seconds["sequential"]), min(seconds["Hugging Face, static cache"])
    print(f"\n{videos} videos of {tokens} tokens; a copy reads {rate / 1e9:.1f} GB/s")
    for name, times in seconds.items():
        best = min(times)
        read = passes[name] * (weights + cache_bytes) / best
        print(
            f"{name:27} {best:7.2f} s {videos * tokens / best:8.1f} tokens/s {passes[name]:4d} passes  "
            f"{first / best:5.2f} × sequential {theirs / best:5.2f} × static cache  "
            f"reads {read / 1e9:6.2f} GB/s, {read / rate:.0%} of a copy"
            + (_by_level(levels[name]) if name in levels else ""),
            flush=True,
        )


def _by_level(drawn: Drawn) -> str:
    return "  by level: " + ", ".join(f"{n} in {s:.2f} s" for n, s in zip(drawn.passes, drawn.seconds, strict=True))


def measure_memory(model: LanguageModel, text: TextTokenizer) -> None:
    """Print what PROMPTS prompts take under a limit that holds AT_ONCE of them."""
    made_by, device = Fingerprints("", ""), model.level.weight.device
    generator = Generator(model, text, cast(Any, None), cast(Any, None), made_by)
    each = bytes_per_video(model, SAMPLING, generator.levels)
    limit = AT_ONCE * each
    _start_peak(device)
    before = _peak(device)
    drawn = generator.draw([Request(f"{PROMPT} {n}", n) for n in range(PROMPTS)], SAMPLING, memory_gib=limit / GIB)
    grown, mib = _peak(device) - before, 1 << 20
    print(
        f"\n{PROMPTS} prompts, limit {limit / mib:.1f} MiB = {AT_ONCE} videos of {each / mib:.2f} MiB: at most {drawn.at_once} "
        f"at once, largest cache {drawn.cache_bytes / mib:.1f} MiB; the process grew by {grown / mib:.1f} MiB at its peak; "
        f"{sum(drawn.passes)} passes in {sum(drawn.seconds):.1f} s"
    )


def _start_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark begins anew


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=TINY, help="run, showcase, or RUN.yaml (default: the demo's)")
    parser.add_argument("--videos", type=int, nargs="+", default=[1, 8], help="videos at once (default: once 1, once 8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns; the best counts (default 3, after a warm-up)")
    parser.add_argument("--compile", action="store_true", help="also a plain loop with a compiled step")
    words = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, text = load(words.run, device)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{words.run.name}: {size / 1e6:.2f} M parameters on {device.type}, {torch.get_num_threads()} threads", flush=True)
    for videos in words.videos:
        compare(model, text, videos, words.rounds, words.compile)
    measure_memory(model, text)


if __name__ == "__main__":
    main()
