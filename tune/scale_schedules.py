"""Which scales a note should be written in: schedules of two grids of 64 latent tokens, at equal training FLOPs.

mars tune tune/scale_schedules.py --data quickstart/pictures --out sweeps/schedules
"""

from mars_dist.scales import Size
from mars_dist.sweeps import Sweep
from mars_dist.sweeps.schedules import geometric, image_folder, linear, one_column, var, within

GRIDS = {"tall": (Size(2, 8), Size(16, 4)), "square": (Size(4, 4), Size(8, 8))}
"""The patch, and the latent grid; patches have the same area."""
TOKENS = 160
"""At most, over all scales."""


def schedules(shape: str, patch: Size, grid: Size) -> dict[str, dict[str, object]]:
    made = {
        "linear": within(TOKENS, linear, grid),
        "geometric": within(TOKENS, geometric, grid),
        "one column": one_column(within(TOKENS, geometric, grid)),
        "VAR": var(grid),
        "ImageFolder": image_folder(grid),
    }
    return {
        f"{shape}, {name}": {"tokenizer.tokenizer.patch": patch, "tokenizer.tokenizer.scales": scales}
        for name, scales in made.items()
    }


SWEEP = Sweep(
    kind="tokenizer",
    preset="tiny",
    space={"schedule": {k: v for shape, sizes in GRIDS.items() for k, v in schedules(shape, *sizes).items()}},
    seeds=(0, 1, 2),
    flops=2e13,  # a quarter of what tiny itself takes: 380 steps of its own schedule
)
