"""Queries, keys and values of each head, against autograd's own way."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mars_dist.heads import apart, heads_of

HEAD_WIDTH, NUM_HEADS = 4, 3
ALL = slice(None)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def inputs() -> tuple[Tensor, Tensor]:
    """Of 2 samples and 5 tokens, the first token silent; temperatures on both sides of the limit of 100."""
    qkv_BLM = torch.randn(2, 5, 3 * NUM_HEADS * HEAD_WIDTH)
    qkv_BLM[:, 0] = 0
    log_temperature_N11 = torch.tensor([0.0, 1.5, 9.0]).view(NUM_HEADS, 1, 1)
    return qkv_BLM.requires_grad_(), log_temperature_N11.requires_grad_()


def plain_heads(qkv_BLM: Tensor, log_temperature_N11: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_BNLE, k_BNLE, v_BNLE = apart(qkv_BLM, HEAD_WIDTH)
    temperature_N11 = log_temperature_N11.exp().clamp(max=100)
    return normalize(q_BNLE, dim=-1) * temperature_N11, normalize(k_BNLE, dim=-1), v_BNLE


def gradients(heads: tuple[Tensor, ...], of: tuple[Tensor, Tensor], weights: Tensor) -> tuple[Tensor, ...]:
    loss = sum((weights_BNLE.to(x.dtype) * x).sum() for weights_BNLE, x in zip(weights, heads, strict=True))
    assert isinstance(loss, Tensor)
    return torch.autograd.grad(loss, of)


def test_heads_and_their_gradients_are_autograds() -> None:
    of, weights = inputs(), torch.randn(3, 2, NUM_HEADS, 5, HEAD_WIDTH)
    found, expected = heads_of(HEAD_WIDTH, None, ALL, *of), plain_heads(*of)
    torch.testing.assert_close(found, expected)
    for d_found, d_expected in zip(gradients(found, of, weights), gradients(expected, of, weights), strict=True):
        audible = d_expected.abs() < 1e6  # what is silent is divided by next to nothing
        assert audible.sum() >= d_expected.numel() * 0.8
        torch.testing.assert_close(d_found[audible], d_expected[audible], rtol=1e-4, atol=1e-5)


def test_compiled_the_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    of, weights = inputs(), torch.randn(3, 2, NUM_HEADS, 5, HEAD_WIDTH)
    by_hand = heads_of(HEAD_WIDTH, None, ALL, *of)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    plain = heads_of(HEAD_WIDTH, None, ALL, *of)
    assert all(torch.equal(a, b) for a, b in zip(by_hand, plain, strict=True))
    torch.testing.assert_close(gradients(by_hand, of, weights), gradients(plain, of, weights))


def test_what_is_silent_has_finite_gradients() -> None:
    of = inputs()
    q_BNLE, k_BNLE, v_BNLE = heads_of(HEAD_WIDTH, None, ALL, *of)
    assert not q_BNLE[:, :, 0].any() and not k_BNLE[:, :, 0].any()
    d_qkv_BLM, d_log_temperature_N11 = torch.autograd.grad((q_BNLE * k_BNLE * v_BNLE).sum(), of)
    assert d_qkv_BLM.isfinite().all() and d_log_temperature_N11.isfinite().all()


def test_each_head_lies_by_itself() -> None:
    assert all(x_BNLE.is_contiguous() for x_BNLE in heads_of(HEAD_WIDTH, None, ALL, *inputs()))


def test_in_bf16_it_errs_no_more_than_autograd() -> None:
    qkv_BLM, log_temperature_N11 = torch.randn(8, 64, 3 * NUM_HEADS * HEAD_WIDTH), inputs()[1]
    weights = torch.randn(3, 8, NUM_HEADS, 64, HEAD_WIDTH)
    exact_of = (qkv_BLM.bfloat16().float().requires_grad_(), log_temperature_N11)
    exact, _ = gradients(plain_heads(*exact_of), exact_of, weights.bfloat16().float())
    errors = []
    for make in (plain_heads, lambda *of: heads_of(HEAD_WIDTH, None, ALL, *of)):
        of = (qkv_BLM.bfloat16().requires_grad_(), log_temperature_N11.detach().bfloat16().requires_grad_())
        found, d_log_temperature_N11 = gradients(make(*of), of, weights)
        assert found.dtype == d_log_temperature_N11.dtype == torch.bfloat16
        errors.append((found.float() - exact).square().mean().sqrt().item())
    assert errors[1] < 1.1 * errors[0]
