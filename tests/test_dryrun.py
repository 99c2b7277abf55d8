"""What dry runs count is what real runs do. Suffixes: B batch, N heads, L tokens, E head width, D width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.dryrun import DryRun, Flops, OnceForAlike, PeakMemory, WorkCounter, as_on, count_flops, dry_run
from mars_dist.layers import Attention
from mars_dist.recomputed import Recomputed

META = torch.device("meta")


def as_it_is(x_BLD: Tensor) -> Recomputed[Tensor]:
    return Recomputed(lambda x_BLD: x_BLD, (x_BLD,))


def test_flops_of_layers_and_of_attention() -> None:
    with META:
        attention, x_BLD = Attention(width=64, head_width=16, normalised=True), torch.empty(2, 10, 64)
    assert count_flops(lambda: attention(as_it_is(x_BLD))) == Flops(
        layers=2 * 10 * 2 * 64 * 4 * 64, attention=2 * 2 * 2 * 10 * 10 * 64
    )


def test_peak_of_a_chain() -> None:
    """Three layers without activations keep their inputs, and the backward pass frees them one by one."""
    layers = nn.Sequential(*(nn.Linear(100, 100, bias=False, device=META) for _ in range(3)))
    layers.requires_grad_(False)
    x_BD = torch.empty(50, 100, device=META, requires_grad=True)

    def loss() -> Tensor:
        return layers(x_BD.exp()).sum()

    one = 4 * 50 * 100
    # The layers keep nothing, since no weight asks for a gradient: there are the result of exp, an input and an output.
    assert dry_run(loss, "cpu").peak_bytes in range(3 * one, 3 * one + 16)


def test_memory_that_was_there_before_is_not_counted() -> None:
    x_D = torch.empty(1000)
    with PeakMemory() as memory:
        y_D = x_D.view(10, 100).T
        z_D = y_D + 1
        del z_D
        z_D = y_D + 1
    assert (memory.peak, memory.now) == (4000, 4000)
    del z_D
    assert memory.now == 0


def test_a_gpu_keeps_no_products_of_tokens() -> None:
    """Twice the tokens: twice the memory on a GPU, and more on a CPU, by a product for each head."""
    with META:
        attention = Attention(width=64, head_width=16, normalised=False)
    peaks = {}
    for device in ("cpu", "cuda"):
        for num_tokens in (256, 512):
            x_BLD = torch.empty(1, num_tokens, 64, device=META)
            peaks[device, num_tokens] = dry_run(lambda x_BLD=x_BLD: attention(as_it_is(x_BLD)).sum(), device).peak_bytes
    assert peaks["cuda", 512] < 2.1 * peaks["cuda", 256]
    assert peaks["cpu", 512] > 4 * 4 * 512 * 512
    assert peaks["cpu", 512] > 3.5 * peaks["cpu", 256]


def test_tensors_say_that_they_are_on_a_gpu_within_the_block_alone() -> None:
    q_BNLE, mask_LL = torch.randn(2, 4, 6, 8), torch.ones(6, 6).tril().bool()
    real = F.scaled_dot_product_attention(q_BNLE, q_BNLE, q_BNLE, attn_mask=mask_LL, scale=1.0)
    q_BNLE, mask_LL = q_BNLE.to(META), mask_LL.to(META)
    with as_on("cuda"):
        assert q_BNLE.is_cuda
        dry = F.scaled_dot_product_attention(q_BNLE, q_BNLE, q_BNLE, attn_mask=mask_LL, scale=1.0)
    assert dry.shape == real.shape
    assert not q_BNLE.is_cuda


def test_work_of_a_layer_and_a_sum() -> None:
    """Forward one product of matrices, backward two; a sum reads them and spreads its gradient."""
    layer, x_BD = nn.Linear(100, 50, bias=False, device=META), torch.empty(20, 100, device=META, requires_grad=True)
    work = dry_run(lambda: layer(x_BD).sum(), "cpu").work
    assert work.flops == {torch.float32: 3 * 2 * 20 * 100 * 50}
    assert work.total_flops == 3 * 2 * 20 * 100 * 50
    assert work.num_bytes < 4 * 4 * 20 * 50 + 64 and work.num_operations < 10


def test_what_is_asked_once_is_what_is_asked_each_time() -> None:
    """A network of blocks that are alike, with a product that gives its operand's memory another shape."""
    with META:
        attention, layer, x_BLD = Attention(64, 16, normalised=True), nn.Linear(64, 64), torch.empty(2, 10, 64)

    def loss() -> Tensor:
        y_BLD = x_BLD
        for _ in range(3):
            y_BLD = attention(as_it_is(layer(y_BLD) @ layer.weight))
        grids_BDhw = y_BLD.transpose(1, 2).unflatten(-1, (2, 5))
        return F.interpolate(grids_BDhw, size=(8, 20), mode="bicubic").flatten(1).square().mean()

    with PeakMemory() as memory, WorkCounter() as counter:
        loss().backward()
    attention.zero_grad()
    layer.zero_grad()
    assert dry_run(loss, "cpu") == DryRun(memory.peak, counter.work)


def test_what_is_alike_but_not_the_same() -> None:
    """1, 1.0 and True make tensors of other types; a view has its tensor's memory; what has values is computed."""
    x_D = torch.empty(10, dtype=torch.int64, device=META)
    ones_D = torch.ones(10, dtype=torch.int64)
    with OnceForAlike() as once:
        sums = [x_D + number for number in (1, 1.0, True, 1, 1.0)]
        assert [(ones_D + 1).sum() for _ in range(2)] == [20, 20]
        views = [torch.ops.aten._unsafe_view(x_D, [2, 5]) for _ in range(2)]
    assert [y_D.dtype for y_D in sums] == [torch.int64, torch.float32, torch.int64, torch.int64, torch.float32]
    assert len({y_D.untyped_storage()._cdata for y_D in sums}) == len(sums) == len(once.answers) + 2
    assert {view.untyped_storage()._cdata for view in views} == {x_D.untyped_storage()._cdata}
