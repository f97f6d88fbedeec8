"""RMSNorm compared with its formula and transformers' LlamaRMSNorm, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hitvideo.errors import ConfigError
from hitvideo.ops.norm import RMSNorm, apex_missing, rms_norm, use_apex

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 5, 32, generator=GENERATOR) * torch.logspace(-3, 3, 5)[:, None]
WEIGHT = torch.rand(32, generator=GENERATOR) + 0.5


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-2])
def test_equal_to_the_formula(eps: float) -> None:
    ours, theirs = [(X.clone().requires_grad_(), WEIGHT.clone().requires_grad_()) for _ in range(2)]
    x, weight = theirs
    found, expected = rms_norm(*ours, eps), x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found.backward(upstream)
    expected.backward(upstream)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_equal_to_llama() -> None:
    norm, llama = RMSNorm(32, 1e-5), LlamaRMSNorm(32, 1e-5)
    for module in (norm, llama):
        module.load_state_dict({"weight": WEIGHT})
    torch.testing.assert_close(norm(X), llama(X))


def test_bf16_is_computed_in_fp32() -> None:
    """Our norm rounds only once, after the weight, so it equals the exact value rounded to bf16."""
    x, weight = X.bfloat16(), WEIGHT.bfloat16()
    exact = F.rms_norm(x.double(), (32,), weight.double(), 1e-5)
    found = rms_norm(x, weight, 1e-5)
    assert found.dtype == torch.bfloat16
    assert (found == exact.bfloat16()).float().mean() > 0.999  # fp32 can round a tie the other way
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=0)


def test_share_wraps_the_weight() -> None:
    doubled = RMSNorm(32, 1e-5, share=lambda weight: 2 * weight)
    torch.testing.assert_close(doubled(X), 2 * RMSNorm(32, 1e-5)(X))


def test_apex_on_the_cpu() -> None:
    assert "CUDA" in str(apex_missing("cpu"))
    with pytest.raises(ConfigError, match=r"train\.norm is 'apex', but .*CUDA.*train\.norm=torch"):
        use_apex(RMSNorm(32, 1e-5), torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(apex_missing("cuda") is not None or not torch.cuda.is_available(), reason="needs CUDA and NVIDIA apex")
def test_apex() -> None:
    norm = RMSNorm(32, 1e-5).cuda()
    use_apex(norm, torch.device("cuda"))
    torch.testing.assert_close(norm(X.cuda()).cpu(), rms_norm(X, torch.ones(32), 1e-5), atol=1e-5, rtol=1e-5)
