"""Our method against a plain VAR set-up, on the same pictures, at the same steps and parameters.

    python benchmarks/against_var.py --data quickstart/pictures --out studies/var

Plain VAR trains as VAR does: AdamW, a random codebook that learns by gradient alone, without restarts, an L2 loss with
commitment, learned positions, clean inputs for the autoregressor. Both sides share our networks: aligned tokens,
normalised latents, silence as 0, one AdaLN projection for all blocks, our grids, widths and sampling. Each side has the
same small search over its learning rates, by its samples' pitch accuracy with one seed; the best runs with three more.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from trial import Figures, Trial, compare, heading, options_of, run_all, slug, so_long, table

from mars_dist.config import ReconstructionLossConfig
from mars_dist.presets import TINY, Preset

RATES = (0.5, 1.0, 2.0)
"""Times the side's own, both stages alike."""
PLAIN_RATE = 2e-3
"""Of AdamW: about the best for our tokenizer (docs/studies.md, The optimizer)."""
SEARCH_SEED = 0
COLUMNS = (
    "pitch_accuracy_reconstruction",
    "log_spectral_distance_reconstruction",
    "multi_resolution_stft_reconstruction",
    "mel_distance_reconstruction",
    "mse_reconstruction",
    "mae_reconstruction",
    "perplexity",
    "pitch_accuracy_sample",
    "log_spectral_distance_sample",
)


def plain_var(preset: Preset) -> Preset:
    """The preset, trained as VAR trains."""
    codebook = replace(preset.tokenizer.codebook, start_step=0, restart_every=0, dropout=0.0)
    loss = ReconstructionLossConfig(l1=0.0, l2=1.0, relative=0.0, spectral_convergence=0.0)
    settings = replace(preset.autoregressor.autoregressor, positions="learned", corrupt_codes=0.0, scale_weight=1.0)
    first, second = (
        replace(stage.optim, optimizer="adamw", lr=PLAIN_RATE) for stage in (preset.tokenizer, preset.autoregressor)
    )
    return Preset(
        replace(
            preset.tokenizer,
            tokenizer=replace(preset.tokenizer.tokenizer, last_scale="nearest"),
            codebook=codebook,
            loss=loss,
            optim=first,
        ),
        replace(preset.autoregressor, autoregressor=settings, optim=second),
    )


SIDES = {"ours": TINY, "plain VAR": plain_var(TINY)}


def trial(data: Path, out: Path, steps: Sequence[int], rate: float, side: str, seed: int) -> Trial:
    tokenizer = so_long(SIDES[side].tokenizer, steps[0], seed, rate)
    autoregressor = so_long(SIDES[side].autoregressor, steps[1], seed, rate)
    settings = replace(autoregressor.autoregressor, condition_on_instrument=True)
    name = f"{side}, rate x {rate:g}, seed {seed}"
    return Trial(name, out / slug(name), str(data), tokenizer, replace(autoregressor, autoregressor=settings))


def main() -> None:
    options = options_of(__doc__, "data", "folder that mars preprocess tiny wrote", [700, 1200], seeds=[1, 2, 3])
    at = partial(trial, options.data, options.out, options.steps)
    search = run_all(at(rate, side, SEARCH_SEED) for side in SIDES for rate in RATES)
    best = {side: max(RATES, key=lambda rate: score(search[at(rate, side, SEARCH_SEED).name])) for side in SIDES}
    print(heading(options.steps))
    print("Search over the learning rates, one seed:\n")
    print(table([(name, [figures]) for name, figures in search.items()], COLUMNS))
    print("\nEach side's best with other seeds (mean, half the range):\n")
    print(
        compare(SIDES, options.seeds, lambda side, seed: at(best[side], side, seed), ("pitch_accuracy_real", *COLUMNS))
    )


def score(figures: Figures) -> float:
    """What a user would choose by."""
    return figures["pitch_accuracy_sample"]


if __name__ == "__main__":
    main()
