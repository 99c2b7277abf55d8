"""What each way to spare time or memory is worth by itself: with it and without it, in turns.

    python benchmarks/gains.py

Two threads, float32, shapes of depth 8 and 680 tokens. Without it, it is done as one would write it first.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from autoregressor_step import BATCH, PLAIN, ours_of
from sampling import SAMPLING, quantizer_of
from side_by_side import MIB, Call, Table, Times, options, take_turns, tell
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist import autoregressor
from mars_dist.attention import Heads
from mars_dist.autoregressor import Autoregressor, Begun, Conditions
from mars_dist.cross_entropy import nats_of
from mars_dist.layers import KeyValueCache
from mars_dist.presets import TINY
from mars_dist.products import packed
from mars_dist.sampling import SamplingConfig, sample_codes
from mars_dist.tokenizer import Tokenizer
from mars_dist.training.optim import MovingAverage

NOTES = 64
"""Encoded at once."""
UNGUIDED = replace(SAMPLING, guidance=0.0)
HARDLY_GUIDED = replace(SAMPLING, guidance=1e-6)
"""As much work as any other guidance."""


def model_of(kind: type[Autoregressor] = Autoregressor) -> Autoregressor:
    return kind(*ours_of(PLAIN), {"class": PLAIN.num_classes})


def adam(way: Literal["fused", "foreach", "loop"]) -> Call:
    model = model_of()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return torch.optim.AdamW(model.parameters(), fused=way == "fused", foreach=way == "foreach").step


def average() -> Call:
    return partial(MovingAverage(model_of(), 0.999).update, 0)


def average_one_by_one() -> Call:
    moving = MovingAverage(model_of(), 0.999)

    @torch.no_grad()
    def update() -> None:
        for name, parameter in moving.parameters.items():
            moving.averages[name].lerp_(parameter, 0.001)

    return update


def cross_entropy(nats: Callable[[Tensor, nn.Linear, Tensor], Tensor]) -> Call:
    """Of a step's tokens, forward and backward."""
    head, x_TD = nn.Linear(PLAIN.width, PLAIN.codebook_size), torch.randn(BATCH * PLAIN.num_tokens, PLAIN.width)
    codes_TP = torch.randint(PLAIN.codebook_size, (len(x_TD), 1))
    return lambda: nats(x_TD.requires_grad_(), head, codes_TP).mean().backward()


def nats_by_torch(x_TD: Tensor, head: nn.Linear, codes_TP: Tensor) -> Tensor:
    return F.cross_entropy(head(x_TD), codes_TP[:, 0], reduction="none")


def sampling(
    settings: SamplingConfig,
    kind: type[Autoregressor] = Autoregressor,
    cache: type[KeyValueCache] = KeyValueCache,
    laid_out_once: bool = True,
) -> Call:
    """One note."""
    autoregressor.KeyValueCache = cache  # type: ignore[attr-defined]  # in this contestant's process alone
    model, quantizer = model_of(kind).eval().requires_grad_(False), quantizer_of(PLAIN)
    model = packed(model) if laid_out_once else model
    return lambda: sample_codes(model, quantizer, {"class": torch.arange(1)}, [0], settings)


class Forgetful(Autoregressor):
    """All that follows from the condition is computed again at every scale."""

    def begin(self, conditions: Conditions) -> Begun:
        self.asked = conditions
        return super().begin(conditions)

    def predict_scale(self, k: int, inputs_BkC: Tensor | None, begun: Begun, guidance: float | None = None) -> Tensor:
        again = replace(super().begin(self.asked), caches=begun.caches)
        return super().predict_scale(k, inputs_BkC, again, guidance)


class GrowingCache(KeyValueCache):
    """Keys and values are copied at every scale."""

    def extend(self, q_BNLE: Tensor, k_BNLE: Tensor, v_BNLE: Tensor) -> Heads:
        if self.length:
            k_BNLE = torch.cat([self.keys_BNLE, k_BNLE], dim=2)
            v_BNLE = torch.cat([self.values_BNLE, v_BNLE], dim=2)
        self.keys_BNLE, self.values_BNLE, self.length = k_BNLE, v_BNLE, k_BNLE.shape[2]
        return q_BNLE, k_BNLE, v_BNLE


def encoding(at_once: int) -> Call:
    """`tiny`'s codes of as many notes either way."""
    model = packed(Tokenizer(TINY.tokenizer.tokenizer, TINY.tokenizer.spectrogram).eval().requires_grad_(False))
    x_BCHW = torch.randn(NOTES, *TINY.tokenizer.spectrogram.picture_shape)
    return lambda: torch.cat([model.encode(few_BCHW) for few_BCHW in x_BCHW.split(at_once)])


SAMPLED = partial(sampling, SAMPLING)
GAINS: dict[str, tuple[Callable[[], Call], Callable[[], Call]]] = {
    "AdamW, 41 M parameters: fused / a loop over them": (partial(adam, "fused"), partial(adam, "loop")),
    "AdamW: foreach / a loop": (partial(adam, "foreach"), partial(adam, "loop")),
    "moving average of 41 M: foreach / a loop": (average, average_one_by_one),
    "cross-entropy of 2,720 tokens: logits a few at once / all": (
        partial(cross_entropy, nats_of),
        partial(cross_entropy, nats_by_torch),
    ),
    "sampling a note: conditions once / at every scale": (SAMPLED, partial(SAMPLED, kind=Forgetful)),
    "sampling: cache taken once / torch.cat at every scale": (SAMPLED, partial(SAMPLED, cache=GrowingCache)),
    "sampling: weights laid out once / for each product": (SAMPLED, partial(SAMPLED, laid_out_once=False)),
    "sampling without guidance: no unconditional half / computed": (
        partial(sampling, UNGUIDED),
        partial(sampling, HARDLY_GUIDED),
    ),
    "encoding 64 notes with tiny: at once / one by one": (partial(encoding, NOTES), partial(encoding, 1)),
}


def main() -> None:
    given = options(__doc__)
    rows = []
    for name, (with_it, without) in GAINS.items():
        found = take_turns({"with": with_it, "without": without}, given.rounds)
        rows.append(row(name, found["with"], found["without"]))
    columns = ["", "with", "without", "time, with / without", "peak", "without"]
    tell(given, Table("What each gain is worth", f"2 threads, float32, {given.rounds} rounds", columns, rows))


def row(name: str, ours: Times, plain: Times) -> list[str]:
    return [
        name,
        *(f"{1000 * times.median:.0f} ms" for times in (ours, plain)),
        f"{ours.over(plain):.2f}",
        *(f"{times.peak_bytes / MIB:.0f} MiB" for times in (ours, plain)),
    ]


if __name__ == "__main__":
    main()
