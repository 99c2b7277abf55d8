"""Each of the autoregressor's options on its own against the preset without it, on the codes of one trained tokenizer.

python benchmarks/autoregressor_options.py --run quickstart --out studies/autoregressor
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trial import Trial, compare, heading, options_of, slug, so_long

from mars_dist.presets import TINY

COLUMNS = (
    "cross_entropy",
    "pitch_accuracy_sample",
    "log_spectral_distance_sample",
    "mse_sample",
    "autoregressor_step_ms",
)
OPTIONS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "rotary positions": {"positions": "rotary"},
    "learned and rotary positions": {"positions": "both"},
    "AdaLN of each block's own": {"modulation": "own"},
    "each token of the loss alike": {"scale_weight": 1.0},
    "each scale of the loss alike": {"scale_weight": 0.0},
    "clean inputs": {"corrupt_codes": 0.0},
    "no drop path": {"drop_path": 0.0},
    "conditions dropped all together alone": {"drop_each_condition": 0.0},
    "conditions dropped all together or each at 0.05": {"drop_each_condition": 0.05},
}


def trial(quickstart: Path, out: Path, steps: int, option: str, seed: int) -> Trial:
    run, name = so_long(TINY.autoregressor, steps, seed), f"{option}, seed {seed}"
    settings = replace(run.autoregressor, condition_on_instrument=True, **OPTIONS[option])
    pictures, tokenizer, codes = (str(quickstart / folder) for folder in ("pictures", "tokenizer", "codes"))
    return Trial(
        name,
        out / slug(name),
        pictures,
        autoregressor=replace(run, autoregressor=settings),
        trained=(tokenizer, codes),
        num_notes=544,
    )


def main() -> None:
    options = options_of(__doc__, "run", "folder of make quickstart: its pictures, tokenizer and codes", [1200])
    print(heading(options.steps))
    print(compare(OPTIONS, options.seeds, partial(trial, options.run, options.out, *options.steps), COLUMNS))


if __name__ == "__main__":
    main()
