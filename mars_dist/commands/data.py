"""Commands that make data sets, and look at them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mars_dist.addresses import address
from mars_dist.arguments import Inline, local, make_folder, parse, preset_first, told
from mars_dist.config import SpectrogramConfig
from mars_dist.progress import say, tenths


def notes(arguments: Sequence[str]) -> None:
    """Render notes in NSynth's format from a soundfont."""
    from mars_dist.notes import RECORD, NotesConfig, render

    @dataclass(frozen=True)
    class Notes:
        out: str
        """Folder of the notes."""
        notes: Annotated[NotesConfig, Inline] = field(default_factory=NotesConfig)

    command = parse(Notes, arguments, "notes")
    finished = (Path(command.out) / RECORD).exists()
    record = render(command.out, command.notes, progress=tenths("notes"))
    counted = ", ".join(f"{num} {split}" for split, num in record["counts"].items())
    say(f"{command.out}: " + (f"finished already, {counted}: nothing to do" if finished else counted))


@dataclass(frozen=True)
class Preprocess:
    source: str
    """Folder that holds nsynth-train/, nsynth-valid/ and nsynth-test/, or their .tar.gz; or any audio beside labels.csv
    or labels.jsonl (file, pitch, family); or one of these itself. Local or s3://."""
    out: str
    """Folder of the data set, local or s3://."""
    spectrogram: SpectrogramConfig
    shard_rows: int = 256
    """Notes in a Parquet file."""


def preprocess(arguments: Sequence[str]) -> None:
    """Turn notes into a data set of pictures."""
    preset, rest = preset_first(arguments, "preprocess")
    default = Preprocess(tyro.MISSING, tyro.MISSING, preset.tokenizer.spectrogram)
    command = parse(Preprocess, rest, "preprocess PRESET", default)
    if command.shard_rows < 1:
        raise ValueError(f"--shard-rows: {command.shard_rows} must be at least 1")
    from mars_dist.distributed.data import preprocess as run

    run(str(address(command.source)), str(address(command.out)), command.spectrogram, command.shard_rows, say)


@dataclass(frozen=True)
class Encode:
    data: str
    """Folder that mars preprocess wrote."""
    tokenizer: str
    """Folder that mars train-tokenizer wrote."""
    out: str
    """Folder of the codes."""


def encode(arguments: Sequence[str]) -> None:
    """Turn pictures into codes."""
    command = parse(Encode, arguments, "encode")
    from mars_dist.distributed.data import encode as run

    run(str(address(command.data)), address(command.tokenizer), str(address(command.out)), say)


@dataclass(frozen=True)
class Show:
    data: Positional[str]
    """Folder that mars preprocess or mars encode wrote."""
    out: str = "examples.png"
    """Where to draw some of its notes."""
    split: str = "train"
    """Of those that are drawn."""
    notes: int = 12
    """How many are drawn, spread evenly over the split."""


def show(arguments: Sequence[str]) -> None:
    """Tell what a data set holds, and draw some of its notes."""
    command = parse(Show, arguments, "show")
    if command.notes < 1:
        raise ValueError(f"--notes: {command.notes} must be at least 1")
    out = local(command.out)
    from PIL import Image

    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out: {command.out} must be a file whose name ends as a picture's does, such as .png, .jpg")
    from mars_dist.rows import Rows
    from mars_dist.show import draw, table

    rows = Rows(command.data, command.split)
    print(table(rows.info, rows.folder))
    make_folder(out.parent)
    drawing = draw(rows, command.notes)
    with told(f"{out}: cannot be written"):
        drawing.save(out)
    say(str(out))
