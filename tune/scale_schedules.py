"""Which scales a note should be written in: schedules of two grids of 64 latent tokens, at equal training FLOPs.

mars tune tune/scale_schedules.py --data quickstart/pictures --out sweeps/schedules
"""

from mars_dist.scales import Size
from mars_dist.sweeps import Sweep
from mars_dist.sweeps.schedules import geometric, image_folder, one_column, var, within

TALL, SQUARE = Size(16, 4), Size(8, 8)
"""Latent grids. Pitch and timbre of a note lie along the columns of the tall one."""
PATCHES = {TALL: Size(2, 8), SQUARE: Size(4, 4)}
"""Of the same area."""
SCHEDULES = {
    "tall, one column": one_column(within(160, geometric, TALL)),  # at most 160 tokens, then fewer
    "tall, VAR": var(TALL),
    "tall, ImageFolder": image_folder(TALL),
    "square, VAR": var(SQUARE),
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
    flops=2e13,  # a quarter of what tiny itself takes: 380 steps
)
