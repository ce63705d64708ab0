"""Attention on a CPU in bfloat16 is computed in float32, and is what it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from computing.cpu_attention import Float32Attention, attention_on, forward_pass

CPU = torch.device("cpu")


def inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3)]


def test_within_autocast_it_is_that_of_float32_and_comes_back_in_bfloat16() -> None:
    tensors = inputs()
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    with forward_pass(CPU, bf16=True):
        found = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
        product = tensors[0] @ tensors[1].transpose(-1, -2)
    assert found.dtype == product.dtype == torch.bfloat16
    exact = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    assert torch.equal(found, exact.bfloat16())
    found.float().sum().backward()
    gradients = [tensor.grad for tensor in tensors]
    again = inputs()
    F.scaled_dot_product_attention(*again, attn_mask=mask).sum().backward()
    for found_one, tensor in zip(gradients, again, strict=True):
        assert found_one is not None
        torch.testing.assert_close(found_one, tensor.grad)


def test_a_mask_of_numbers_and_inputs_in_bfloat16_go_together() -> None:
    query, key, value = (tensor.detach().bfloat16() for tensor in inputs())
    mask = torch.zeros(7, 7, dtype=torch.bfloat16).masked_fill(torch.ones(7, 7).triu(1).bool(), float("-inf"))
    with Float32Attention():
        found = F.scaled_dot_product_attention(query, key, value, mask, is_causal=False)
        named = F.scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=mask)
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    assert found.dtype == torch.bfloat16
    assert torch.equal(named, found)
    torch.testing.assert_close(found, exact.bfloat16())


@pytest.mark.parametrize(
    ("device", "bf16"), [(CPU, False), (torch.device("cuda", 0), True), (torch.device("cuda"), False)]
)
def test_elsewhere_and_in_float32_nothing_comes_between(device: torch.device, bf16: bool) -> None:
    assert not isinstance(attention_on(device, bf16), Float32Attention)


def test_weights_are_cast_anew_for_each_forward_pass() -> None:
    layer = torch.nn.Linear(4, 4, bias=False)
    shown = torch.ones(1, 4)
    with forward_pass(CPU, bf16=True):
        before = layer(shown)
    with torch.no_grad():
        layer.weight.mul_(2)
    with forward_pass(CPU, bf16=True):
        assert torch.equal(layer(shown), 2 * before)
