"""A folder of any audio, and a table of labels: labels.csv, or labels.jsonl, in the folder or named itself.

Columns: file (relative to the table), pitch (MIDI), family (one of NSynth's eleven). There may be more, each with what
counts where it is missing: velocity (100), instrument (the family), source (acoustic), qualities, with spaces between
them (none), and split (a tenth of all pairs of instrument and pitch is valid, the rest train).

Files of other rates and of several channels are converted, longer ones cut, shorter ones filled up with silence
(`audio.convert_note`). A row that is wrong is rejected with its reason; the others are used.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from errno import ENAMETOOLONG, ENOTDIR
from pathlib import PurePosixPath
from typing import Any

from mars_dist.dataset import Rejected
from mars_dist.nsynth import FAMILIES, QUALITIES, SOURCES, SPLITS, Note, is_utf8
from mars_dist.sources.source import Entry, Source, Split
from mars_dist.storage import Folder

TABLES = ("labels.csv", "labels.jsonl")
REQUIRED = ("file", "pitch", "family")
OPTIONAL = {"velocity": "100", "instrument": "", "source": "acoustic", "qualities": "", "split": ""}
NOMINAL_RATE = 16_000
"""What a note's entry says of its rate; its file says the real one."""
VALID_SHARE = 10
"""One in so many pairs of instrument and pitch, where the table does not tell the split."""


def read_labelled(folder: Folder, table: str) -> Source:
    """Raises ValueError where the table is none, or lacks a column; OSError."""
    rows = list(rows_of(folder.read(table), f"{folder.name}/{table}"))
    if not rows:
        raise ValueError(f"{folder.name}/{table}: holds no rows: a row for each note, with {', '.join(REQUIRED)}")
    sizes: dict[str, dict[str, int]] = {}
    found: dict[str, list[Entry]] = {name: [] for name in SPLITS}
    rejected: list[Rejected] = []
    instruments = {name: number for number, name in enumerate(sorted({instrument_of(row) for row in rows}))}
    names: set[str] = set()
    for line, row in enumerate(rows, start=1):
        try:
            path = path_of(row)
            note = note_of(row, line, instruments)
            if note.note_str in names:
                raise ValueError(f"file is {row['file']!r:.80}, the name {note.note_str!r:.80} has come before")
            split = split_of(row, note)
        except ValueError as error:
            rejected.append(Rejected(f"row {line}", table, str(error)))
            continue
        names.add(note.note_str)
        place = str(path.parent)
        if place not in sizes:
            sizes[place] = sizes_in(folder.sub(place) if place != "." else folder)
        found[split].append(Entry(note, str(path), sizes[place].get(path.name)))
    splits = {
        name: Split(name, folder, tuple(sorted(entries, key=lambda entry: entry.note.note_str)), strict=False)
        for name, entries in found.items()
        if entries
    }
    return Source(splits, tuple(rejected))


def sizes_in(folder: Folder) -> dict[str, int]:
    """Of no files where there can be no such folder: its notes are missing. Raises OSError where it cannot be read."""
    try:
        return folder.sizes()
    except OSError as error:
        if error.errno not in (ENOTDIR, ENAMETOOLONG):
            raise
        return {}


def rows_of(content: bytes, name: str, required: Sequence[str] = REQUIRED) -> Iterator[dict[str, Any]]:
    """A table's rows. Raises ValueError where it is none, or lacks a column."""
    number = 1
    try:
        text = content.decode("utf-8-sig")
        rows = csv_rows(text, name, required) if name.endswith(".csv") else json_rows(text, name)
        for row in rows:
            yield row
            number += 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: no table of labels ({error})") from error
    except (json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise ValueError(f"{name}: no table of labels (row {number}: {error})") from error


def csv_rows(text: str, name: str, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    # strict: a quote that is not closed would make one cell of all rows that follow it.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    require_columns(reader.fieldnames or [], required, name)
    for row in reader:
        yield {key: value for key, value in row.items() if key and value}


def json_rows(text: str, name: str) -> Iterator[dict[str, Any]]:
    for line in filter(str.strip, text.split("\n")):
        # Where a value is missing, pandas' rows have NaN.
        if not isinstance(row := json.loads(line, parse_constant=lambda _: None), dict):
            raise ValueError(f"{name}: holds {line!r:.40}, must be an object a line")
        yield {key: value for key, value in row.items() if value is not None}


def require_columns(columns: Sequence[str], required: Sequence[str], name: str) -> None:
    for column in required:
        if column not in columns:
            has = f"; it has {', '.join(map(repr, columns)):.80}" if columns else ""
            raise ValueError(f"{name}: has no column {column!r}: it must have {', '.join(required)}{has}")


def path_of(row: Mapping[str, Any]) -> PurePosixPath:
    """Of the row's file, below the table's folder. Raises ValueError for one that leads out of it."""
    file = row.get("file")
    path = PurePosixPath(file) if isinstance(file, str) and is_utf8(file) else None
    if path is None or not path.name or path.is_absolute() or ".." in path.parts or set(str(file)) & set("\\\0\n\r"):
        raise ValueError(f"file is {file!r:.80}, must be a path below the folder of the table")
    return path


def note_of(row: Mapping[str, Any], line: int, instruments: Mapping[str, int]) -> Note:
    """Raises ValueError, naming the column."""
    family, source = one_of(row, "family", FAMILIES), one_of(row, "source", SOURCES)
    has = row.get("qualities") or ""
    has = has if isinstance(has, list) else str(has).split()
    for quality in has:
        if quality not in QUALITIES:
            raise ValueError(f"qualities has {quality!r:.40}, there are {' '.join(QUALITIES)}")
    return Note.from_json(
        {
            "note": line,
            "note_str": "-".join(path_of(row).parts).lstrip("."),
            "instrument": instruments[instrument_of(row)],
            "instrument_str": instrument_of(row),
            "pitch": whole_number("pitch", row.get("pitch")),
            "velocity": whole_number("velocity", row.get("velocity", OPTIONAL["velocity"])),
            "sample_rate": NOMINAL_RATE,
            "qualities": [int(name in has) for name in QUALITIES],
            "instrument_family": FAMILIES.index(family),
            "instrument_source": SOURCES.index(source),
        }
    )


def instrument_of(row: Mapping[str, Any]) -> str:
    return str(row.get("instrument", "")) or str(row.get("family"))


def one_of(row: Mapping[str, Any], column: str, known: Sequence[str]) -> str:
    value = row.get(column) or OPTIONAL.get(column)
    if value not in known:
        raise ValueError(f"{column} is {value!r:.40}, must be one of {' '.join(known)}")
    return str(value)


def whole_number(column: str, value: Any) -> int:
    """What a table says. Raises ValueError, naming the column."""
    try:
        return int(str(value).removesuffix(".0"))  # pandas writes 60.0 where a value of the column is missing
    except ValueError:
        raise ValueError(f"{column} is {value!r:.40}, must be a whole number") from None


def split_of(row: Mapping[str, Any], note: Note) -> str:
    """What the row says, or what the note's instrument and pitch come to."""
    if row.get("split"):
        return one_of(row, "split", SPLITS)
    pair = hashlib.sha256(f"{note.instrument_str} {note.pitch}".encode()).digest()
    return "train" if int.from_bytes(pair) % VALID_SHARE else "valid"
