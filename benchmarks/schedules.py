"""Scale schedules, square and rectangular, and one codebook for all scales against one for each.

    python benchmarks/schedules.py --data quickstart/pictures --out studies/schedules

Patches by area, latent tokens at the last scale, widths and steps are the same for all.
"""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

from trial import Trial, machine, run_all, so_long, table

from mars_dist.config import TokenizerConfig
from mars_dist.presets import TINY
from mars_dist.scales import Size

SQUARE, TALL, WIDE = Size(4, 4), Size(2, 8), Size(8, 2)
SCHEDULES = {
    "tall": (TALL, "1x1 2x1 4x1 8x1 16x1 16x4"),
    "tall, two columns early": (TALL, "1x1 2x1 4x1 8x2 16x2 16x4"),
    "tall, three scales": (TALL, "1x1 16x1 16x4"),
    "tall, last scale alone": (TALL, "1x1 16x4"),
    "square, linear": (SQUARE, "1x1 2x2 3x3 4x4 6x6 8x8"),
    "square, geometric": (SQUARE, "1x1 2x2 4x4 8x8"),
    "wide": (WIDE, "1x1 1x2 1x4 1x8 1x16 4x16"),
}
COLUMNS = (
    "tokens",
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


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that mars preprocess tiny wrote")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, nargs=2, default=(700, 1200), help="of tokenizer and autoregressor")
    options = parser.parse_args()
    preset, data = so_long(TINY, options.steps), str(Path(options.data).absolute())
    settings = variants(preset.tokenizer.tokenizer)
    found = run_all(
        Trial(
            name,
            options.out.absolute() / name.replace(", ", "_").replace(" ", "-"),
            data,
            replace(preset.tokenizer, tokenizer=tokenizer),
            preset.autoregressor,
        )
        for name, tokenizer in settings.items()
    )
    print(f"{machine()}\n{options.steps[0]} and {options.steps[1]} steps, tiny\n")
    print(table([(n, [{"tokens": settings[n].schedule.num_tokens} | found[n]]) for n in settings], COLUMNS))


if __name__ == "__main__":
    main()
