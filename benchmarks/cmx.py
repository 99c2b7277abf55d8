"""What channel multiplexing brings: at a fixed patch, against none and against cutting frequencies off.

    python benchmarks/cmx.py --notes quickstart/notes --out studies/cmx

The patch is 16 x 16 cells of the multiplexed picture, so CMX decides how many tokens the encoder sees; latent tokens,
widths and steps are the same for all. Cutting keeps the lower half of the bins: as many tokens as CMX 2x1.
"""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
from trial import Figures, Trial, machine, run_all, so_long, table

from mars_dist.codes import LABELS
from mars_dist.config import SpectrogramConfig, TokenizerRunConfig
from mars_dist.costs import tokenizer_memory
from mars_dist.dataset import DatasetInfo, Folder, Rows, write_shard
from mars_dist.distributed.data import preprocess
from mars_dist.pictures import arrays
from mars_dist.presets import TINY
from mars_dist.progress import say
from mars_dist.scales import Size

PATCH = Size(16, 16)
NONE = Size(1, 1)
FACTORS = (NONE, Size(2, 1), Size(2, 2), Size(4, 2), Size(4, 4))
LOWER_HALF = SpectrogramConfig(sample_rate=8000, num_samples=32_000, n_fft=512, hop=125, cmx=NONE)
"""What the lower half of the bins of the default picture is."""
COLUMNS = (
    "tokens",
    "tokenizer_step_ms",
    "activation_mb",
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


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--notes", required=True, help="folder that mars notes wrote")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=700)
    options = parser.parse_args()
    out = options.out.absolute()
    base = so_long(TINY, (options.steps, 3)).tokenizer
    trials = []
    for factors in FACTORS:
        spectrogram = SpectrogramConfig(cmx=factors)
        pictures = out / f"pictures_{factors}"
        preprocess(options.notes, pictures, spectrogram, progress=say)
        name = "no CMX" if factors == NONE else f"CMX {factors}"
        trials.append(Trial(name, out / f"cmx_{factors}", str(pictures), run_of(base, spectrogram)))
    whole, cut = trials[0].data, out / "pictures_cut"
    keep_lower_half(whole, cut)
    trials.append(Trial("upper half cut off", out / "cut", str(cut), run_of(base, LOWER_HALF), whole=whole))
    found = run_all(trials)
    print(f"{machine()}\n{options.steps} steps, tiny, patch {PATCH}\n")
    rows = [(trial.name, [costs(run) | found[trial.name]]) for trial in trials if (run := trial.tokenizer)]
    print(table(rows, COLUMNS))


def costs(run: TokenizerRunConfig) -> Figures:
    """Picture tokens, and what a step's activations take, computed for one worker on a CPU."""
    tokens = run.tokenizer.patch_grid(run.spectrogram).area
    return {"tokens": tokens, "activation_mb": tokenizer_memory(run, 1, "cpu").activations / 2**20}


def run_of(base: TokenizerRunConfig, spectrogram: SpectrogramConfig) -> TokenizerRunConfig:
    return replace(base, spectrogram=spectrogram, tokenizer=replace(base.tokenizer, patch=PATCH))


if __name__ == "__main__":
    main()
