"""Our method against a plain VAR set-up, on the same pictures, at the same steps and parameters.

    python benchmarks/against_var.py --data quickstart/pictures --out studies/var

Plain VAR trains as VAR does: a random codebook that learns by gradient alone, without restarts, an L2 loss with
commitment, learned positions, clean inputs for the autoregressor. Both sides share our networks: aligned tokens,
normalised latents, silence as 0, one AdaLN projection for all blocks, our grids, widths and sampling. Each side has the
same small search over its learning rates, by its samples' pitch accuracy with one seed; the best runs with three more.
"""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

from trial import Figures, Trial, machine, run_all, so_long, table

from mars_dist.config import ReconstructionLossConfig
from mars_dist.presets import TINY, Preset

RATES = (0.5, 1.0, 2.0)
"""Times the preset's, both stages alike."""
SEARCH_SEED, SEEDS = 0, (1, 2, 3)
COLUMNS = (
    "pitch_accuracy_reconstruction",
    "log_spectral_distance_reconstruction",
    "mse_reconstruction",
    "mae_reconstruction",
    "perplexity",
    "pitch_accuracy_sample",
    "log_spectral_distance_sample",
)


def plain_var(preset: Preset) -> Preset:
    """The preset, trained as VAR trains."""
    codebook = replace(preset.tokenizer.codebook, start_step=0, restart_every=0, dropout=0.0)
    loss = ReconstructionLossConfig(l1=0.0, l2=1.0, spectral_convergence=0.0)
    settings = replace(preset.autoregressor.autoregressor, positions="learned", corrupt_codes=0.0)
    return Preset(
        replace(preset.tokenizer, codebook=codebook, loss=loss),
        replace(preset.autoregressor, autoregressor=settings),
    )


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that mars preprocess tiny wrote")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, nargs=2, default=(700, 1200), help="of tokenizer and autoregressor")
    options = parser.parse_args()
    sides = {"ours": TINY, "plain VAR": plain_var(TINY)}

    def trial(side: str, rate: float, seed: int) -> Trial:
        preset = so_long(sides[side], options.steps, seed, rate)
        instruments = replace(preset.autoregressor.autoregressor, condition_on_instrument=True)
        name = f"{side}, rate x {rate:g}, seed {seed}"
        folder = options.out.absolute() / name.replace(", ", "_").replace(" ", "-")
        autoregressor = replace(preset.autoregressor, autoregressor=instruments)
        return Trial(name, folder, str(Path(options.data).absolute()), preset.tokenizer, autoregressor)

    search = run_all(trial(side, rate, SEARCH_SEED) for side in sides for rate in RATES)
    best = {side: max(RATES, key=lambda rate: score(search[trial(side, rate, SEARCH_SEED).name])) for side in sides}
    found = run_all(trial(side, best[side], seed) for side in sides for seed in SEEDS)
    print(f"{machine()}\n{options.steps[0]} and {options.steps[1]} steps, tiny\n")
    print("Search over the learning rates, one seed:\n")
    print(table([(name, [figures]) for name, figures in search.items()], COLUMNS))
    print("\nThree seeds at each side's best (mean, half the range):\n")
    rows = [(side, [found[trial(side, best[side], seed).name] for seed in SEEDS]) for side in sides]
    print(table(rows, ("pitch_accuracy_real", *COLUMNS)))


def score(figures: Figures) -> float:
    """What a user would choose by."""
    return figures["pitch_accuracy_sample"]


if __name__ == "__main__":
    main()
