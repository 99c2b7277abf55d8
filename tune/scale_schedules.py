"""Which scales a note should be written in: schedules of three grids of 64 latent tokens, at equal training FLOPs.

mars tune tune/scale_schedules.py --data quickstart/pictures --out sweeps/schedules
"""

from mars_dist.scales import Size
from mars_dist.sweeps import Sweep
from mars_dist.sweeps.schedules import geometric, one_column, var, within

TALL, SQUARE, WIDE = Size(16, 4), Size(8, 8), Size(4, 16)
"""Latent grids. Pitch and timbre of a note lie along the columns, its course along the rows."""
PATCHES = {TALL: Size(2, 8), SQUARE: Size(4, 4), WIDE: Size(8, 2)}
"""Of the same area."""
SCHEDULES = {
    "tall, one column": one_column(within(160, geometric, TALL)),  # at most 160 tokens, then fewer
    "tall, two scales": geometric(TALL, 2),
    "square, VAR": var(SQUARE),
    "wide, VAR": var(WIDE),
}

SWEEP = Sweep(
    kind="tokenizer",
    preset="tiny",
    settings={"tokenizer.codebook.start_step": 420},  # of 1,400: born sooner in a short run, a codebook stays a mean
    space={
        "schedule": {
            name: {"tokenizer.tokenizer.patch": PATCHES[scales[-1]], "tokenizer.tokenizer.scales": scales}
            for name, scales in SCHEDULES.items()
        }
    },
    seeds=(0, 1, 2),
    stop_early=False,  # each seed of each schedule counts to the end
    flops=4e13,  # 0.44 of what tiny itself takes: 614 steps
)
