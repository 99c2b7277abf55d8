"""A training step of the autoregressor against plain VAR's, at the same shapes and parameter count.

    python benchmarks/autoregressor_step.py

Depth 8, 680 tokens, batch 4, two threads; plain VAR in torch's and glibc's defaults. Ours is what a worker does:
FSDP's precision, clipping, fused AdamW, and the average of the weights, which plain VAR does not keep.
"""

from functools import partial

import torch
from plain_var import PlainConfig, PlainVar
from side_by_side import MIB, Call, Table, Times, options, product, product_rate, take_turns, tell
from torch.nn import functional as F

from mars_dist.autoregressor import Autoregressor
from mars_dist.config import AutoregressorConfig, OptimConfig, TokenizerConfig, TrainConfig
from mars_dist.dryrun import count_flops
from mars_dist.precision import cpu_multiplies_bf16
from mars_dist.scales import Size
from mars_dist.training import sharding
from mars_dist.training.optim import MovingAverage, make_optimizer
from mars_dist.training.run import LocalRun

BATCH, PLAIN = 4, PlainConfig()
DTYPES = {"float32": torch.float32}
if cpu_multiplies_bf16():  # emulated it takes minutes, and tells nothing
    DTYPES["bf16"] = torch.bfloat16


def ours_of(plain: PlainConfig) -> tuple[AutoregressorConfig, TokenizerConfig]:
    """The same shapes: an own AdaLN projection for each block, learned positions."""
    autoregressor = AutoregressorConfig(
        width=plain.width, depth=plain.depth, head_width=plain.head_width, modulation="own", positions="learned"
    )
    tokenizer = TokenizerConfig(
        scales=tuple(Size(side, side) for side in plain.sides),
        codebook_size=plain.codebook_size,
        code_width=plain.code_width,
    )
    return autoregressor, tokenizer


def data(plain: PlainConfig, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (B, L - 1, C) and codes (B, L)."""
    inputs_BLC = torch.randn(batch, plain.num_tokens - 1, plain.code_width)
    return inputs_BLC, torch.randint(plain.codebook_size, (batch, plain.num_tokens))


def plain_step(dtype: torch.dtype) -> Call:
    model, classes_B = PlainVar(PLAIN), torch.arange(BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    inputs_BLC, codes_BL = data(PLAIN)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits_BLV = model(inputs_BLC, classes_B)
            loss = F.cross_entropy(logits_BLV.flatten(0, 1), codes_BL.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(precision: str, shapes: PlainConfig = PLAIN, batch: int = BATCH) -> Call:
    run = LocalRun(".")  # type: ignore[arg-type]
    config, tokenizer = ours_of(shapes)
    model = Autoregressor(config, tokenizer, {"class": shapes.num_classes})
    train = TrainConfig(precision=precision)  # type: ignore[arg-type]
    sharding.shard(model, train, run.device)
    optimizer, average = make_optimizer(model, OptimConfig(lr=1e-4), train.precision), MovingAverage(model, 0.999)
    inputs_BLC, codes_BL = data(shapes, batch)
    conditions = {"class": torch.arange(batch)}

    def step() -> None:
        model(inputs_BLC, conditions, codes_BL=codes_BL).mean().backward()
        parameters = list(model.parameters())
        norm = torch.nn.utils.get_total_norm(sharding.gradients_of(parameters))
        if sharding.whole(norm) > 2.0:
            torch.nn.utils.clip_grads_with_norm_(parameters, 2.0, norm)
        optimizer.step()
        optimizer.zero_grad()
        average.update(0)

    return step


def main() -> None:
    given = options(__doc__)
    theirs = {f"plain VAR, {name}": partial(plain_step, dtype) for name, dtype in DTYPES.items()}
    set_ups = theirs | {f"ours, {name}": partial(our_step, name) for name in DTYPES}
    limits = {name: partial(product, dtype) for name, dtype in DTYPES.items()}
    found = take_turns(set_ups | limits, given.rounds, as_found=theirs)
    rows = [row(name, found) for name in set_ups]
    columns = [
        "",
        "step",
        *(f"of plain's {name}" for name in DTYPES),
        "of a matrix product's rate",
        "peak",
        "of plain's",
    ]
    settings = f"Depth {PLAIN.depth}, {PLAIN.num_tokens} tokens, batch {BATCH}, 2 threads, {given.rounds} rounds"
    tell(given, Table("Autoregressor, a training step", settings, columns, rows))


def row(name: str, found: dict[str, Times]) -> list[str]:
    side, dtype = name.split(", ")
    times, peer = found[name], found[f"plain VAR, {dtype}"]
    rate = 3 * forward_flops(side == "ours") / times.median
    return [
        name,
        f"{times.median:.3f} s",
        *(f"{times.over(found[f'plain VAR, {other}']):.2f}" for other in DTYPES),
        f"{rate / product_rate(found[dtype]):.0%}",
        f"{times.peak_bytes / MIB:.0f} MiB",
        f"{times.peak_bytes / peer.peak_bytes:.2f}",
    ]


def forward_flops(ours: bool) -> int:
    """Pairs of tokens count where one may see the other."""
    with torch.device("meta"):
        inputs_BLC, _ = data(PLAIN)
        classes_B = torch.arange(BATCH)
        if ours:
            model = Autoregressor(*ours_of(PLAIN), {"class": PLAIN.num_classes})
            flops = count_flops(lambda: model(inputs_BLC, {"class": classes_B}))
        else:
            plain = PlainVar(PLAIN)
            flops = count_flops(lambda: plain(inputs_BLC, classes_B))
    ends = torch.tensor(PLAIN.sides).square().cumsum(0)
    seen = float((torch.tensor(PLAIN.sides).square() * ends).sum()) / PLAIN.num_tokens**2
    return round(flops.layers + seen * flops.attention)


if __name__ == "__main__":
    main()
