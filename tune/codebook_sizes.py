"""How many codes, and how wide: judged by the notes that come out at the end, which no size has an advantage in.

mars tune tune/codebook_sizes.py --data quickstart/pictures --out sweeps/codebooks
"""

from mars_dist.sweeps import Sweep, choices

SWEEP = Sweep(
    kind="both",
    preset="tiny",
    space={
        "codes": choices("tokenizer.tokenizer.codebook_size", 256, 512, 1024, 2048, 4096),
        "width of a code": choices("tokenizer.tokenizer.code_width", 8, 16, 32),
    },
    metrics=("pitch_accuracy_sample", "log_spectral_distance_sample", "mse_reconstruction"),
    seeds=(0, 1),
)
