"""One codebook for all scales against one for each, and a tall grid against a square one, up to the samples.

    python benchmarks/schedules.py --data quickstart/pictures --out studies/schedules

Patches by area, latent tokens at the last scale, widths and steps are the same for all. More schedules, by their
reconstructions alone: tune/scale_schedules.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from trial import Trial, compare, heading, options_of, slug, so_long

from mars_dist.config import TokenizerConfig
from mars_dist.presets import TINY
from mars_dist.scales import Size

SCHEDULES = {
    "tall": (Size(2, 8), "1x1 2x1 4x1 8x1 16x1 16x4"),
    "square": (Size(4, 4), "1x1 2x2 4x4 8x8"),
}
COLUMNS = (
    "mse_reconstruction",
    "log_spectral_distance_reconstruction",
    "pitch_accuracy_reconstruction",
    "perplexity",
    "tokenizer_step_ms",
    "cross_entropy",
    "pitch_accuracy_sample",
    "autoregressor_step_ms",
)


def variants(base: TokenizerConfig) -> dict[str, TokenizerConfig]:
    settings = {
        name: replace(base, patch=patch, scales=tuple(map(Size.parse, sizes.split())))
        for name, (patch, sizes) in SCHEDULES.items()
    }
    own = replace(base, codebooks="per_scale")
    smaller = replace(own, codebook_size=base.codebook_size // len(base.scales))
    return settings | {"tall, a codebook for each scale": own, "the same, as many codes in all": smaller}


def trial(data: Path, out: Path, steps: Sequence[int], schedule: str, seed: int) -> Trial:
    tokenizer, autoregressor = so_long(TINY.tokenizer, steps[0], seed), so_long(TINY.autoregressor, steps[1], seed)
    settings, name = variants(tokenizer.tokenizer)[schedule], f"{schedule}, seed {seed}"
    return Trial(name, out / slug(name), str(data), replace(tokenizer, tokenizer=settings), autoregressor)


def main() -> None:
    options = options_of(__doc__, "data", "folder that mars preprocess tiny wrote", [700, 1200])
    schedules = variants(TINY.tokenizer.tokenizer)
    print(heading(options.steps))
    for name, settings in schedules.items():
        print(f"* {name}: {settings.schedule.num_tokens} tokens")
    print(f"\n{compare(schedules, options.seeds, partial(trial, options.data, options.out, options.steps), COLUMNS)}")


if __name__ == "__main__":
    main()
