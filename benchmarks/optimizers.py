"""AdamW and Muon over a few learning rates: a tokenizer by each, then an autoregressor by each on the best one's codes.

    python benchmarks/optimizers.py --data quickstart/pictures --out studies/optimizers

The steps are equal, the time is not: a column shows by how much Muon's steps take longer.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from trial import Stage, Trial, compare, heading, options_of, run_all, slug, so_long

from mars_dist import codes
from mars_dist.config import Optimizer
from mars_dist.presets import TINY

RATES: dict[Optimizer, tuple[float, ...]] = {"adamw": (1e-3, 2e-3, 4e-3), "muon": (2e-3, 4e-3, 8e-3)}
ROWS = {f"{optimizer}, lr {rate:g}": (optimizer, rate) for optimizer, rates in RATES.items() for rate in rates}
OF_TOKENIZER = (
    "mse_reconstruction",
    "log_spectral_distance_reconstruction",
    "mel_distance_reconstruction",
    "pitch_accuracy_reconstruction",
    "perplexity",
    "tokenizer_step_ms",
)
OF_AUTOREGRESSOR = (
    "cross_entropy",
    "pitch_accuracy_sample",
    "log_spectral_distance_sample",
    "mse_sample",
    "autoregressor_step_ms",
)


def by(run: Stage, row: str, steps: int, seed: int) -> Stage:
    """The stage trained as the row says."""
    optimizer, rate = ROWS[row]
    return replace(so_long(run, steps, seed), optim=replace(run.optim, optimizer=optimizer, lr=rate))


def tokenizer_trial(data: Path, out: Path, steps: int, row: str, seed: int) -> Trial:
    name = f"tokenizer, {row}, seed {seed}"
    return Trial(name, out / slug(name), str(data), by(TINY.tokenizer, row, steps, seed))


def autoregressor_trial(data: Path, out: Path, steps: int, trained: tuple[str, str], row: str, seed: int) -> Trial:
    name, run = f"autoregressor, {row}, seed {seed}", by(TINY.autoregressor, row, steps, seed)
    run = replace(run, autoregressor=replace(run.autoregressor, condition_on_instrument=True))
    return Trial(name, out / slug(name), str(data), autoregressor=run, trained=trained)


def main() -> None:
    options = options_of(__doc__, "data", "folder that mars preprocess tiny wrote", [700, 1200])
    first = partial(tokenizer_trial, options.data, options.out, options.steps[0])
    print(heading(options.steps))
    print(compare(ROWS, options.seeds, first, OF_TOKENIZER))
    trained = best_of([first(row, options.seeds[0]) for row in ROWS])
    second = partial(autoregressor_trial, options.data, options.out, options.steps[1], trained)
    print(f"\nOn the codes of {Path(trained[0]).parent.name}:\n")
    print(compare(ROWS, options.seeds, second, OF_AUTOREGRESSOR))


def best_of(trials: list[Trial]) -> tuple[str, str]:
    """The tokenizer with the least squared error, and the codes that it makes."""
    found = run_all(trials)
    best = min(trials, key=lambda trial: found[trial.name]["mse_reconstruction"])
    tokenizer, encoded = best.folder / "tokenizer", str(best.folder / "codes")
    codes.encode_here(best.data, tokenizer, encoded)
    return str(tokenizer), encoded


if __name__ == "__main__":
    main()
