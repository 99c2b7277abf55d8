"""From pictures to codes: what `mars encode` does to a group of rows, beside the encoder's products alone.

python benchmarks/encode.py --notes quickstart/notes --out /tmp/encode
"""

from functools import partial
from pathlib import Path

import torch
from check import prepare
from side_by_side import Call, Table, options, product, product_rate, take_turns, tell

from mars_dist.codes import LABELS, encode_group
from mars_dist.costs import build_tokenizer
from mars_dist.dryrun import count_flops
from mars_dist.presets import PRESETS
from mars_dist.rows import Rows

NAMES = ("tiny", "small")


def group(home: Path, preset: str) -> Call:
    rows = Rows(home / preset / "pictures", "train")
    columns, cut = ["picture", *LABELS], rows.info.spectrogram
    return lambda: encode_group(rows.read_group(rows.groups[0], columns), cut, home / preset / "tokenizer")


def flops_of(preset: str) -> int:
    """Of the encoder, for one note."""
    run = PRESETS[preset].tokenizer
    x_BCHW = torch.empty(1, *run.spectrogram.picture_shape, device="meta")
    return count_flops(lambda: build_tokenizer(run).latents(x_BCHW)).total


def main() -> None:
    given = options(__doc__, with_notes=True)
    home: Path = given.out
    for preset in NAMES:
        prepare(preset, given.notes, home / preset)
    set_ups = {preset: partial(group, home, preset) for preset in NAMES}
    found = take_turns(set_ups | {"product": partial(product, torch.float32)}, given.rounds)
    rows = []
    for preset in NAMES:
        num, times = Rows(home / preset / "pictures", "train").groups[0].num_rows, found[preset]
        share = flops_of(preset) * num / times.median / product_rate(found["product"])
        rows.append([preset, f"{num / times.median:.0f}", f"{1000 * times.median / num:.2f} ms", f"{share:.0%}"])
    columns = ["", "notes/s", "a note", "of a matrix product's rate"]
    tell(given, Table("Encoding, read to codes", f"2 threads, float32, {given.rounds} rounds", columns, rows))


if __name__ == "__main__":
    main()
