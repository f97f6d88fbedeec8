"""The trunk against transformers' Llama (grouped queries) and Qwen3 (QK-norm), with copied weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from hitvideo.llm.cache import KVCache
from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.recompute import Recompute
from hitvideo.llm.rope import Rotation, rotation
from hitvideo.llm.transformer import Transformer
from hitvideo.settings.language_model import LLMSection

VOCAB, LENGTH = 50, 23
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72,
    "rms_norm_eps": 1e-5, "head_dim": 8, "attn_implementation": "eager", "tie_word_embeddings": False,
}  # fmt: skip


def section(kv_heads: int, qk_norm: bool) -> LLMSection:
    return LLMSection(
        layers=2, width=32, heads=4, kv_heads=kv_heads, hidden=72, rope_axes=(4, 2, 2), qk_norm=qk_norm, attention="sdpa"
    )


def oracle(kv_heads: int, qk_norm: bool) -> Any:
    torch.manual_seed(0)
    kind, settings = (Qwen3ForCausalLM, Qwen3Config) if qk_norm else (LlamaForCausalLM, LlamaConfig)
    model = kind(settings(num_key_value_heads=kv_heads, **SIZES)).eval()
    for name, parameter in model.named_parameters():  # norm weights of 1 would hide a forgotten one
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


NAMES = (
    ("model.layers.", "blocks."), ("self_attn.q_proj", "attention.q"), ("self_attn.k_proj", "attention.k"),
    ("self_attn.v_proj", "attention.v"), ("self_attn.o_proj", "attention.out"), ("self_attn.q_norm", "attention.q_norm"),
    ("self_attn.k_norm", "attention.k_norm"), ("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"),
    ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm"), ("model.norm", "norm"),
)  # fmt: skip


def copied(model: Any, kv_heads: int, qk_norm: bool) -> Transformer:
    trunk = Transformer(section(kv_heads, qk_norm), DenseLayers())
    state = {}
    for name, tensor in model.state_dict().items():
        if "embed_tokens" not in name and "lm_head" not in name:
            for theirs, ours in NAMES:
                name = name.replace(theirs, ours)
            state[name] = tensor
    trunk.load_state_dict(state)  # strict: every weight has its place
    return trunk


def turn(length: int = LENGTH, start: int = 0) -> Rotation:
    return rotation(torch.arange(start, start + length)[:, None].float(), (8,), 10000.0)


@pytest.mark.parametrize(("kv_heads", "qk_norm"), [(4, False), (2, False), (1, False), (4, True), (2, True)])
def test_equal_to_transformers(kv_heads: int, qk_norm: bool) -> None:
    model = oracle(kv_heads, qk_norm)
    trunk = copied(model, kv_heads, qk_norm)
    ids = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    expected = model(ids, output_hidden_states=True)
    hidden = trunk(model.model.embed_tokens(ids), turn(), turn())
    torch.testing.assert_close(hidden, expected.hidden_states[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.lm_head(hidden), expected.logits, atol=1e-5, rtol=1e-5)


def test_gradients_equal_to_transformers() -> None:
    model = oracle(2, False)
    trunk = copied(model, 2, False)
    x = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(3))
    (model.model(inputs_embeds=x).last_hidden_state * weight).sum().backward()
    (trunk(x, turn(), turn()) * weight).sum().backward()
    for ours, theirs in (
        (trunk.blocks[0].attention.qkv.column.weight.grad[32:48], model.model.layers[0].self_attn.k_proj.weight.grad),
        (trunk.blocks[1].attention.qkv.column.weight.grad[48:], model.model.layers[1].self_attn.v_proj.weight.grad),
        (trunk.blocks[0].mlp.gate_up.column.weight.grad[:72], model.model.layers[0].mlp.gate_proj.weight.grad),
        (trunk.blocks[1].attention_norm.weight.grad, model.model.layers[1].input_layernorm.weight.grad),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_causal() -> None:
    trunk = copied(oracle(2, True), 2, True)
    x = torch.randn(1, LENGTH, 32, generator=torch.Generator().manual_seed(4))
    before = trunk(x, turn(), turn())
    for slot in (0, 7, LENGTH - 1):
        changed = x.clone()
        changed[:, slot] += 1
        after = trunk(changed, turn(), turn())
        torch.testing.assert_close(after[:, :slot], before[:, :slot], atol=1e-6, rtol=0)
        moved = (after - before).abs().amax(-1)[0, slot:]
        assert (moved > 1e-4).all(), "every later slot sees it"


def test_cached_equals_whole() -> None:
    trunk = copied(oracle(2, True), 2, True)
    x = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(5))
    cache = KVCache(2, 2, LENGTH, 2, 8, torch.float32, torch.device("cpu"))
    parts = [trunk(x[:, :9], turn(9), turn(9), cache)]
    for slot in range(9, LENGTH):
        parts.append(trunk(x[:, slot : slot + 1], turn(1, slot), turn(1, slot), cache))
    torch.testing.assert_close(torch.cat(parts, 1), trunk(x, turn(), turn()), atol=1e-5, rtol=1e-5)
    assert cache.seen == LENGTH


@pytest.mark.parametrize("recompute", ["selective", "block"])
def test_recomputing_changes_nothing(recompute: Recompute) -> None:
    plain = copied(oracle(2, True), 2, True)
    recomputing = Transformer(section(2, True), DenseLayers(), recompute=recompute)
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(6))
    for trunk in (plain, recomputing):
        trunk(x, turn(), turn()).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
