"""Benchmark of generation: our plans against a Llama of Hugging Face and a plain loop in torch, all of the same trunk.

    python -m benchmarks.generation [VIDEOS]

All draw the same number of tokens for VIDEOS prompts (1 by default) with guidance, both halves in one batch, and take turns in
one process, in bf16 on a GPU and fp32 on a CPU. Hugging Face's forward has its static cache; the plain loop is written as
gpt-fast's: one preallocated cache, one slot a pass, a race against exponential noise. Theirs has one output of 512 entries.
Prints tokens per second, passes, and the bytes of weights and cache that passes read, as a share of the machine's copy rate.
The weights are random: the passes of jacobi say nothing about a trained model's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from hitvideo.generation.engine import Request, draw
from hitvideo.generation.sampling import Plan, Sampling
from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.rope import Rotation, rotate, rotation
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection

WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN, ENTRIES, WINDOW, GUIDANCE, ROUNDS = 512, 8, 8, 8, 1408, 512, 16, 3.0, 3
TEXT = TextTokenizer.train(["a red circle moves right"] * 3, 300)


def ours(model: LanguageModel, videos: int, plan: Plan) -> int:
    requests = [Request("a red circle", seed) for seed in range(videos)]
    return sum(draw(model, TEXT, requests, Sampling(guidance=GUIDANCE, temperature=1.0, plan=plan)).passes)


def build(device: torch.device, dtype: torch.dtype) -> LanguageModel:
    levels = tuple(Level(down=down, num_bits=9) for down in ((16, 32, 32), (8, 16, 16), (4, 8, 8)))
    hierarchy = Hierarchy(levels=levels)
    layout = SequenceLayout(Vocab(TEXT.size, hierarchy), hierarchy, Extent(16, 64, 64), WINDOW)
    llm = LLMSection(layers=LAYERS, width=WIDTH, heads=HEADS, kv_heads=KV_HEADS, hidden=HIDDEN, rope_axes=(16, 24, 24))
    model = LanguageModel(llm, layout)
    initialize(model, WIDTH, LAYERS, seed=0)
    model.to(device, dtype).heads.float()
    return model.eval()


def guided(logits: torch.Tensor) -> torch.Tensor:
    """Draw from the guided logits of both halves (2 B, entries) → the same entry for both (2 B, 1)."""
    conditional, unconditional = logits.float().chunk(2)
    chances = (unconditional + GUIDANCE * (conditional - unconditional)).softmax(-1)
    return (chances / torch.empty_like(chances).exponential_()).argmax(-1, keepdim=True).repeat(2, 1)


@torch.no_grad()
def hugging_face(model: LlamaForCausalLM, videos: int, tokens: int) -> int:
    device = model.device
    cache = StaticCache(config=model.config, max_cache_len=WINDOW + tokens)
    fresh = torch.zeros(2 * videos, WINDOW, dtype=torch.long, device=device)
    for slot in range(tokens):
        start = WINDOW + slot - fresh.shape[1]
        position = torch.arange(start, WINDOW + slot, device=device)
        at = {"cache_position": position, "position_ids": position[None]}
        out = model(input_ids=fresh, past_key_values=cache, logits_to_keep=1, **at)
        fresh = guided(out.logits[:, -1])
    return tokens


class PlainLoop:
    """Llama's decoding on our trunk's matrices, without modules for caches, plans or levels."""

    def __init__(self, model: LanguageModel, length: int) -> None:
        self.model, self.length = model, length
        device = model.level.weight.device
        self.turn = rotation(torch.arange(length, device=device)[:, None].float(), (WIDTH // HEADS,), 10000.0)

    @torch.no_grad()
    def __call__(self, videos: int, tokens: int) -> int:
        weight = self.model.level.weight
        shape = (LAYERS, 2, 2 * videos, self.length, KV_HEADS, WIDTH // HEADS)
        cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        fresh = torch.zeros(2 * videos, WINDOW, dtype=torch.long, device=weight.device)
        for slot in range(tokens):
            hidden = self._forward(fresh, WINDOW + slot - fresh.shape[1], cache)
            fresh = guided(self.model.heads[0].outputs[0](hidden[:, -1].float()))  # type: ignore[index, operator]
        return tokens

    def _forward(self, ids: torch.Tensor, start: int, cache: torch.Tensor) -> torch.Tensor:
        x, stop = self.model.embedding(ids), start + ids.shape[1]
        turn = Rotation(self.turn.cos[start:stop], self.turn.sin[start:stop])
        for layer, block in enumerate(self.model.trunk.blocks):
            normed = block.attention_norm(x)
            q, k, v = (getattr(block.attention, name)(normed).unflatten(-1, (-1, WIDTH // HEADS)) for name in "qkv")
            cache[layer, 0, :, start:stop], cache[layer, 1, :, start:stop] = rotate(k, turn), v
            keys, values = (part[:, :stop].transpose(1, 2) for part in cache[layer])
            mixed = F.scaled_dot_product_attention(rotate(q, turn).transpose(1, 2), keys, values, is_causal=start == 0)
            x = x + block.attention.out(mixed.transpose(1, 2).flatten(-2))
            x = x + block.mlp(block.mlp_norm(x))
        out: torch.Tensor = self.model.trunk.norm(x)
        return out


def copy_rate(device: torch.device) -> float:
    """Bytes per second that a large copy reads."""
    source = torch.ones(1 << 26, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(5):
        begin = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, source.nbytes / (time.perf_counter() - begin))
    return best


def main() -> None:
    videos = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build(device, dtype)
    tokens = model.layout.length - 1 - WINDOW
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS, vocab_size=ENTRIES, max_position_embeddings=4096, tie_word_embeddings=False,
        )
    ).to(device, dtype).eval()  # fmt: skip
    plain = PlainLoop(model, WINDOW + tokens)
    sides: dict[str, Callable[[], int]] = {
        "sequential": lambda: ours(model, videos, "sequential"),
        "jacobi": lambda: ours(model, videos, "jacobi"),
        "Hugging Face": lambda: hugging_face(llama, videos, tokens),
        "plain loop": lambda: plain(videos, tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    passes: dict[str, int] = {}
    for turn in range(ROUNDS + 1):  # the first is a warm-up
        for name, side in sides.items():
            begin = time.perf_counter()
            passes[name] = side()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    rate, element = copy_rate(device), torch.finfo(dtype).bits // 8
    weights = sum(parameter.numel() for parameter in model.trunk.parameters()) * element
    cache = 2 * videos * 2 * LAYERS * WIDTH * KV_HEADS // HEADS * element * (WINDOW + tokens / 2)  # half full on average
    first = statistics.median(seconds["sequential"])
    print(f"{videos} videos of {tokens} tokens on {device.type}, {torch.get_num_threads()} threads; copy {rate / 1e9:.1f} GB/s")
    for name, times in seconds.items():
        median = statistics.median(times)
        read = passes[name] * (weights + cache) / median
        print(
            f"{name:13} {videos * tokens / median:8.1f} tokens/s {passes[name]:5d} passes {first / median:5.2f} × sequential  "
            f"{read / 1e9:6.2f} GB/s read, {read / rate:.0%} of the copy rate"
        )


if __name__ == "__main__":
    main()
