"""Whether the machinery works here: 12 trials of `debug` in some minutes. Nothing about sound follows from it.

mars preprocess debug --source notes --out data/debug
mars tune tune/tryout.py --data data/debug --out sweeps/tryout
"""

from mars_dist.sweeps import Sweep, choices

SWEEP = Sweep(
    kind="tokenizer",
    preset="debug",
    settings={"tokenizer.train.steps": 90},
    space={
        "learning rate": choices("tokenizer.optim.lr", 1e-3, 2e-3, 4e-3),
        "codes": choices("tokenizer.tokenizer.codebook_size", 64, 128, 256, 512),
    },
)
