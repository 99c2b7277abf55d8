"""Each of the tokenizer's options on its own against the preset without it.

python benchmarks/tokenizer_options.py --data quickstart/pictures --out studies/tokenizer
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trial import Trial, compare, heading, options_of, slug, so_long

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
    "each token's nearest code": setting("tokenizer", last_scale="nearest"),
    "no relative error": setting("loss", relative=0.0),
    "multi-resolution and mel 0.5": setting("loss", multi_resolution=0.5, mel=0.5),
    "delta 0.5": setting("loss", delta=0.5),
    "adversary 0.3": setting("adversary", weight=0.3),
    "no restarts": setting("codebook", restart_every=0),
    "dead below 0.03 of the mean": setting("codebook", dead_share=0.03),
    "dead below 0.1 of the mean": setting("codebook", dead_share=0.1),
    "restarts to the end": setting("codebook", restart_until=1.0),
}


def trial(data: Path, out: Path, steps: int, option: str, seed: int) -> Trial:
    name = f"{option}, seed {seed}"
    return Trial(name, out / slug(name), str(data), OPTIONS[option](so_long(TINY.tokenizer, steps, seed)))


def main() -> None:
    options = options_of(__doc__, "data", "folder that mars preprocess tiny wrote", [700])
    print(heading(options.steps))
    print(compare(OPTIONS, options.seeds, partial(trial, options.data, options.out, *options.steps), COLUMNS))


if __name__ == "__main__":
    main()
