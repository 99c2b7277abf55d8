"""Sampling codes with guidance against plain VAR's way, at the same shapes and parameter count.

    python benchmarks/sampling.py

Depth 8, 680 tokens, two threads, batches of 1, 4 and 16. Both sides embed codes by the same quantizer. Plain VAR
filters plainly: it sorts all logits of a token, and draws from what is left. bf16 is autocast for it, as VAR samples;
ours has bf16 weights, as `--sampling.precision bf16` does, and weights that are laid out once.
"""

from functools import partial

import torch
from autoregressor_step import BATCH, DTYPES, forward_flops, ours_of
from plain_var import PlainConfig, PlainVar
from side_by_side import Call, Table, Times, options, product, product_rate, take_turns, tell
from torch import Tensor

from mars_dist.autoregressor import Autoregressor
from mars_dist.precision import in_bf16
from mars_dist.products import packed
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.sampling import SamplingConfig, sample_codes

PLAIN, SAMPLING = PlainConfig(), SamplingConfig(guidance=2.0, temperature=1.0, top_k=50, top_p=0.95)
BATCHES = (1, 4, 16)
SIDES = ("plain VAR", "ours")


def quantizer_of(plain: PlainConfig) -> MultiScaleQuantizer:
    return MultiScaleQuantizer(ours_of(plain)[1]).requires_grad_(False)


def plain_sampling(batch: int, dtype: torch.dtype) -> Call:
    model, quantizer, classes_B = PlainVar(PLAIN).eval(), quantizer_of(PLAIN), torch.arange(batch)

    def sample() -> None:
        f_hat_BChw = torch.zeros(batch, PLAIN.code_width, *quantizer.schedule.latent_grid)

        def embed(k: int, codes_Bk: Tensor) -> Tensor:
            nonlocal f_hat_BChw
            f_hat_BChw = quantizer.add_scale(k, f_hat_BChw, codes_Bk)
            return quantizer.next_input(k + 1, f_hat_BChw)

        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            model.sample(classes_B, 2.0, plain_draw, embed)

    return sample


def plain_draw(logits_BkV: Tensor) -> Tensor:
    """Top-k, then top-p, then one of what is left."""
    least_Bk1 = logits_BkV.topk(SAMPLING.top_k).values[..., -1:]  # type: ignore[arg-type]
    logits_BkV = logits_BkV.masked_fill(logits_BkV < least_Bk1, -torch.inf)
    sorted_BkV, order_BkV = logits_BkV.sort(dim=-1)
    unlikely_BkV = sorted_BkV.softmax(-1).cumsum(-1) <= 1 - SAMPLING.top_p  # type: ignore[operator]
    unlikely_BkV[..., -1:] = False
    logits_BkV = logits_BkV.masked_fill(unlikely_BkV.scatter(-1, order_BkV, unlikely_BkV), -torch.inf)
    return torch.multinomial(logits_BkV.softmax(-1).flatten(0, 1), 1).view(logits_BkV.shape[:2])


def our_sampling(batch: int, dtype: torch.dtype) -> Call:
    model = Autoregressor(*ours_of(PLAIN), {"class": PLAIN.num_classes}).eval().requires_grad_(False)
    model = packed(in_bf16(model) if dtype == torch.bfloat16 else model)
    quantizer, conditions, ids = quantizer_of(PLAIN), {"class": torch.arange(batch)}, list(range(batch))

    def sample() -> None:
        sample_codes(model, quantizer, conditions, ids, SAMPLING)

    return sample


def name_of(side: str, batch: int, dtype: str) -> str:
    return f"{side}, {batch} at once, {dtype}"


def main() -> None:
    given = options(__doc__)
    make = dict(zip(SIDES, (plain_sampling, our_sampling), strict=True))
    cases = [(side, batch, dtype) for batch in BATCHES for dtype in DTYPES for side in SIDES]
    set_ups = {name_of(*case): partial(make[case[0]], case[1], DTYPES[case[2]]) for case in cases}
    plain = [name_of(*case) for case in cases if case[0] == SIDES[0]]
    limits = {dtype: partial(product, DTYPES[dtype]) for dtype in DTYPES}
    found = take_turns(set_ups | limits, given.rounds, as_found=plain)
    columns = [
        "",
        "seconds",
        "a sample",
        "of plain's float32",
        "of plain's at this dtype",
        "of a matrix product's rate",
    ]
    settings = f"Depth {PLAIN.depth}, {PLAIN.num_tokens} tokens, guided, 2 threads, {given.rounds} rounds"
    tell(given, Table("Sampling codes", settings, columns, [row(*case, found) for case in cases]))


def row(side: str, batch: int, dtype: str, found: dict[str, Times]) -> list[str]:
    times = found[name_of(side, batch, dtype)]
    passes = 2 * forward_flops(side == "ours") / BATCH  # of a note, with conditions and without
    head = 2 * PLAIN.num_tokens * PLAIN.width * PLAIN.codebook_size
    flops = batch * (passes - head if side == "ours" else passes)  # ours is guided before the head
    return [
        name_of(side, batch, dtype),
        f"{times.median:.3f}",
        f"{times.median / batch:.3f}",
        *(f"{times.over(found[name_of('plain VAR', batch, other)]):.2f}" for other in ("float32", dtype)),
        f"{flops / times.median / product_rate(found[dtype]):.0%}",
    ]


if __name__ == "__main__":
    main()
