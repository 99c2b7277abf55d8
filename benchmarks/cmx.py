"""What channel multiplexing brings: at a fixed patch, against none and against cutting frequencies off.

    python benchmarks/cmx.py --notes quickstart/notes --out studies/cmx

The patch is 16 x 16 cells of the multiplexed picture, so CMX decides how many tokens the encoder sees; latent tokens,
widths and steps are the same for all. Cutting keeps the lower half of the bins: as many tokens as CMX 2x1.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from trial import Trial, compare, heading, options_of, slug, so_long, spectrogram_of

from mars_dist.codes import LABELS
from mars_dist.config import SpectrogramConfig, TokenizerRunConfig
from mars_dist.costs import memory_of, tokenizer_step
from mars_dist.dataset import DatasetInfo, write_shard
from mars_dist.distributed.data import preprocess
from mars_dist.pictures import arrays
from mars_dist.presets import TINY
from mars_dist.progress import say
from mars_dist.rows import Rows
from mars_dist.scales import Size
from mars_dist.storage import Folder

PATCH = Size(16, 16)
NONE = Size(1, 1)
NO_CMX, CUT = "no CMX", "upper half cut off"
FACTORS = (NONE, Size(2, 1), Size(2, 2), Size(4, 2), Size(4, 4))
LOWER_HALF = SpectrogramConfig(sample_rate=8000, num_samples=32_000, n_fft=512, hop=125, cmx=NONE)
"""What the lower half of the bins of the default picture is."""
COLUMNS = (
    "tokenizer_step_ms",
    "mse_reconstruction",
    "mae_reconstruction",
    "log_spectral_distance_reconstruction",
    "pitch_accuracy_reconstruction",
    "perplexity",
)


def keep_lower_half(pictures: str, out: Path) -> None:
    """The same notes without the upper half of their bins."""
    folder, before = Folder.open(out), DatasetInfo.load(Folder.open(pictures))
    for shard in before.shards:
        rows = Rows(pictures, shard.split)
        groups = [rows.read_group(group, ["picture", *LABELS]) for group in rows.groups if group.shard == shard.name]
        columns = {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}
        columns["picture"] = columns["picture"][:, :, : LOWER_HALF.num_bins]
        write_shard(folder, shard.name, columns, {})
    replace(before, spectrogram=LOWER_HALF, arrays=arrays(LOWER_HALF)).save(folder)


def trial(variants: dict[str, Path], out: Path, steps: int, name: str, seed: int) -> Trial:
    """On the pictures of a variant; those cut off are measured against the whole ones."""
    data = variants[name]
    spectrogram, whole = spectrogram_of(str(data)), str(variants[NO_CMX]) if name == CUT else None
    full_name, run = f"{name}, seed {seed}", run_of(so_long(TINY.tokenizer, steps, seed), spectrogram)
    return Trial(full_name, out / slug(full_name), str(data), run, whole=whole)


def main() -> None:
    options = options_of(__doc__, "notes", "folder that mars notes wrote", [700])
    variants = {}
    for factors in FACTORS:
        pictures = options.out / f"pictures_{factors}"
        preprocess(options.notes, pictures, SpectrogramConfig(cmx=factors), progress=say)
        variants[NO_CMX if factors == NONE else f"CMX {factors}"] = pictures
    variants[CUT] = options.out / "pictures_cut"
    keep_lower_half(str(variants[NO_CMX]), variants[CUT])
    print(heading(options.steps))
    for name, pictures in variants.items():
        run = run_of(TINY.tokenizer, spectrogram_of(str(pictures)))
        tokens = run.tokenizer.patch_grid(run.spectrogram).area
        mib = memory_of(tokenizer_step(run, "cpu"), 1, "cpu").activations / 2**20
        print(f"* {name}: {tokens} tokens, activations of a step {mib:.0f} MiB (computed, one worker)")
    table = compare(variants, options.seeds, partial(trial, variants, options.out, *options.steps), COLUMNS)
    print(f"\n{table}")


def run_of(base: TokenizerRunConfig, spectrogram: SpectrogramConfig) -> TokenizerRunConfig:
    return replace(base, spectrogram=spectrogram, tokenizer=replace(base.tokenizer, patch=PATCH))


if __name__ == "__main__":
    main()
