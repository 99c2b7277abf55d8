"""How much channel multiplexing, frequency x time, at a fixed patch: the factors decide how many tokens are encoded.

    mars tune tune/cmx_factors.py --data quickstart/pictures --out sweeps/cmx

Any data set of pictures will do: its CMX is undone as it is read.
"""

from mars_dist.scales import Size
from mars_dist.sweeps import Sweep, choices

SWEEP = Sweep(
    kind="tokenizer",
    preset="tiny",
    settings={"tokenizer.tokenizer.patch": Size(16, 16)},
    space={
        "CMX": choices(
            "tokenizer.spectrogram.cmx", Size(1, 1), Size(2, 1), Size(1, 2), Size(2, 2), Size(4, 2), Size(2, 4)
        )
    },
    seeds=(0, 1),
)
