"""What a data set holds: a table for the terminal, and a picture of some of its notes.

Suffixes: C H W the multiplexed picture, F N bins and frames, L codes of all scales.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps, get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mars_dist.cmx import demultiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import MANIFEST, Columns, DatasetInfo
from mars_dist.nsynth import FAMILIES
from mars_dist.report.media import PICTURE_HEIGHT, PICTURE_WIDTH, image
from mars_dist.rows import Rows, evenly
from mars_dist.scales import Size
from mars_dist.serialize import to_plain
from mars_dist.storage import Folder

COLUMNS = 4
GAP, CAPTION = 12, 16
"""Pixels."""
SHOWN = 5
"""Rejected notes that are told of."""
LABELS = ("pitch", "velocity", "family", "instrument_str")


def table(info: DatasetInfo, folder: Folder) -> str:
    """Settings, counts and what was rejected. Raises ValueError where a shard is damaged."""
    settings = ", ".join(f"{name} {value}" for name, value in to_plain(info.spectrogram).items())
    arrays = ", ".join(f"{array.name} {shape_of(array.shape)} {array.dtype}" for array in info.arrays)
    lines = {"data set": f"{folder.name}, {info.kind}", "spectrogram": settings, "arrays": arrays}
    if info.kind == "codes":
        lines |= {"scales": " ".join(map(str, info.scales)), "codebook": f"{info.codebook_size} codes"}
    if info.notice:
        lines["notice"] = info.notice
    lines["made from"] = f"notes {info.source[:12]}" + (f", tokenizer {info.tokenizer[:12]}" if info.tokenizer else "")
    labels = {split: Rows(folder.name, split, info).read(LABELS) for split in info.counts}
    lines |= {split: of_split(info, folder, split, columns) for split, columns in labels.items()}
    lines["rejected"] = str(len(info.rejected))
    told = [f"  {note.note_str} ({note.split}): {note.reason}" for note in info.rejected[:SHOWN]]
    if len(info.rejected) > SHOWN:
        told.append(f"  ... and {len(info.rejected) - SHOWN} more in {MANIFEST}")
    return "\n".join([*(f"{name:12} {text}" for name, text in lines.items()), *told, "", families(labels)])


def shape_of(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def of_split(info: DatasetInfo, folder: Folder, split: str, labels: Columns) -> str:
    """Its rows, shards and bytes, and what it spans."""
    shards = [shard.name for shard in info.shards if shard.split == split]
    size = sum(found.size for found in folder.files.get_file_info([folder.at(name) for name in shards]))
    pitches, velocities = labels["pitch"], sorted(set(labels["velocity"].tolist()))
    return (
        f"{info.counts[split]:,} notes in {len(shards)} shards, {size / 2**20:,.1f} MiB; "
        f"{len(set(labels['instrument_str']))} instruments, pitches {pitches.min()} to {pitches.max()}, "
        f"velocities {' '.join(map(str, velocities))}"
    )


def families(labels: Mapping[str, Columns]) -> str:
    """Notes by family and split."""
    counts = {split: Counter(columns["family"].tolist()) for split, columns in labels.items()}
    head = f"{'family':12}" + "".join(f"{split:>10}" for split in counts)
    body = [
        f"{name:12}" + "".join(f"{counted[number]:10,}" for counted in counts.values())
        for number, name in enumerate(FAMILIES)
    ]
    return "\n".join([head, *body])


def draw(rows: Rows, num_notes: int) -> Image.Image:
    """Some of the notes, spread evenly over the split: their pictures, or their codes at each scale."""
    notes = spread(rows, num_notes)
    spectrogram, scales = rows.info.spectrogram, rows.info.scales
    drawn = [
        draw_codes(note["codes"], scales) if scales else draw_picture(note["picture"], spectrogram) for note in notes
    ]
    across, down = COLUMNS, -(-len(notes) // COLUMNS)
    sheet = Image.new(
        "RGB", (GAP + across * (PICTURE_WIDTH + GAP), GAP + down * (CAPTION + PICTURE_HEIGHT + GAP)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", CAPTION - 6)  # Pillow's has no umlauts
    for i, (note, one) in enumerate(zip(notes, drawn, strict=True)):
        left = GAP + i % COLUMNS * (PICTURE_WIDTH + GAP)
        top = GAP + i // COLUMNS * (CAPTION + PICTURE_HEIGHT + GAP)
        pen.text((left, top), f"{note['instrument_str']}, pitch {note['pitch']}, velocity {note['velocity']}", "black")
        sheet.paste(one, (left, top + CAPTION))
    return sheet


def spread(rows: Rows, num_notes: int) -> list[dict[str, Any]]:
    """The values of notes that lie evenly over the split."""
    array = "codes" if rows.info.kind == "codes" else "picture"
    wanted = evenly(rows.num_rows, min(num_notes, rows.num_rows))
    columns = rows.take(wanted, [array, *LABELS])
    return [{name: values[i] for name, values in columns.items()} for i in range(len(wanted))]


def draw_picture(picture_CHW: NDArray[Any], spectrogram: SpectrogramConfig) -> Image.Image:
    picture_11FN = demultiplex(torch.from_numpy(picture_CHW[None].astype(np.float32)), spectrogram.cmx)
    return image(picture_11FN[0, 0].numpy(), spectrogram.sample_rate).convert("RGB")


def draw_codes(codes_L: NDArray[Any], scales: Sequence[Size]) -> Image.Image:
    """A colour for each code (of the first branch), the scales side by side, low frequencies at the bottom."""
    sheet = Image.new("RGB", (PICTURE_WIDTH, PICTURE_HEIGHT), "white")
    branches = len(codes_L) // sum(size.area for size in scales)
    per_scale = np.split(codes_L, np.cumsum([size.area * branches for size in scales])[:-1])
    width = PICTURE_WIDTH // len(scales)
    for i, (size, codes) in enumerate(zip(scales, per_scale, strict=True)):
        # Neighbouring codes have nothing to do with each other, nor may their colours.
        codes_hw = codes.reshape(size.h, size.w, branches)[::-1, :, 0].astype(int)
        grid = (colormaps["hsv"](codes_hw * 7919 % 1009 / 1009)[..., :3] * 255).astype(np.uint8)
        one = Image.fromarray(grid).resize((width - 2, PICTURE_HEIGHT), Image.Resampling.NEAREST)
        sheet.paste(one, (i * width, 0))
    return sheet
