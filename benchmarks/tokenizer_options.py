"""Each of the tokenizer's options on its own against the preset without it.

python benchmarks/tokenizer_options.py --data quickstart/pictures --out studies/tokenizer
"""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trial import Trial, machine, run_all, so_long, table

from mars_dist.config import TokenizerRunConfig
from mars_dist.presets import TINY

Change = Callable[[TokenizerRunConfig], TokenizerRunConfig]
COLUMNS = (
    "mse_reconstruction",
    "mae_reconstruction",
    "log_spectral_distance_reconstruction",
    "pitch_accuracy_reconstruction",
    "perplexity",
    "usage",
    "tokenizer_step_ms",
)


def setting(section: str, **values: Any) -> Change:
    """A change of one section of the settings."""
    return lambda run: replace(run, **{section: replace(getattr(run, section), **values)})


OPTIONS: dict[str, Change] = {
    "tiny": lambda run: run,
    "512 codes": setting("tokenizer", codebook_size=512),
    "rotation trick": setting("codebook", gradient="rotation"),
    "SimVQ": setting("tokenizer", codebook_projection=True),
    "quantizer dropout 0.1": setting("codebook", dropout=0.1),
    "two branches": setting("tokenizer", branches=2),
    "stem of one convolution": setting("tokenizer", stem=1),
    "free latents": setting("tokenizer", latents="free"),
    "multi-resolution and mel 0.5": setting("loss", multi_resolution=0.5, mel=0.5),
    "delta 0.5": setting("loss", delta=0.5),
    "adversary 0.3": setting("adversary", weight=0.3),
    "no restarts": setting("codebook", restart_every=0),
    "dead below 0.1 of the mean": setting("codebook", dead_share=0.1),
    "dead below 0.3 of the mean": setting("codebook", dead_share=0.3),
}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that mars preprocess tiny wrote")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    data = str(Path(options.data).absolute())

    def trial(name: str, seed: int) -> Trial:
        folder = options.out.absolute() / f"{name}_{seed}".replace(" ", "-")
        run = OPTIONS[name](so_long(TINY, (options.steps, 1), seed).tokenizer)
        return Trial(f"{name}, seed {seed}", folder, data, run)

    found = run_all(trial(name, seed) for seed in options.seeds for name in OPTIONS)
    print(f"{machine()}\n{options.steps} steps, tiny\n")
    rows = [(name, [found[trial(name, seed).name] for seed in options.seeds]) for name in OPTIONS]
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
