"""Each of the autoregressor's options on its own against the preset without it, on the codes of one trained tokenizer.

python benchmarks/autoregressor_options.py --run quickstart --out studies/autoregressor
"""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

from trial import Trial, machine, run_all, so_long, table

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
    "AdaLN of each block's own": {"modulation": "own"},
    "scales weighted by the root of their area": {"scale_weight": 0.5},
    "clean inputs": {"corrupt_codes": 0.0},
    "no drop path": {"drop_path": 0.0},
    "conditions dropped all together alone": {"drop_each_condition": 0.0},
    "conditions dropped all together or each at 0.05": {"drop_each_condition": 0.05},
}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", required=True, type=Path, help="folder of make quickstart: its pictures, tokenizer, codes"
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    pictures, tokenizer, codes = (str(options.run.absolute() / name) for name in ("pictures", "tokenizer", "codes"))

    def trial(name: str, seed: int) -> Trial:
        run = so_long(TINY, (1, options.steps), seed).autoregressor
        settings = replace(run.autoregressor, condition_on_instrument=True, **OPTIONS[name])
        folder = options.out.absolute() / f"{name}_{seed}".replace(" ", "-")
        run = replace(run, autoregressor=settings)
        return Trial(f"{name}, seed {seed}", folder, pictures, None, run, trained=(tokenizer, codes), num_notes=544)

    found = run_all(trial(name, seed) for seed in options.seeds for name in OPTIONS)
    print(f"{machine()}\n{options.steps} steps, tiny\n")
    rows = [(name, [found[trial(name, seed).name] for seed in options.seeds]) for name in OPTIONS]
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
