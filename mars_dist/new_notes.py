"""Many new notes, as the rows of a table ask for them: wav files and labels.csv, a folder that `mars preprocess` takes.

Each note's noise is keyed by its place among all, so the same table gives the same notes however the work is spread.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mars_dist.addresses import Address
from mars_dist.audio import wav_bytes
from mars_dist.conditions import WORDS
from mars_dist.evaluation.lines import model_of
from mars_dist.evaluation.work import Map
from mars_dist.model import model_fingerprint
from mars_dist.phase import Phase, wave_from_picture
from mars_dist.progress import Say
from mars_dist.sampling import SamplingConfig
from mars_dist.serialize import as_json, first_difference, to_plain
from mars_dist.sources.labelled import rows_of, whole_number
from mars_dist.storage import Folder

COUNT = "count"
"""A column of a table of prompts, beside WORDS: how many notes a row wants."""
AUDIO, PARTS, LABELS, SETTINGS = "audio", "parts", "labels.csv", "samples.json"
NOTES_IN_A_PART = 32
Words = Mapping[str, Any]
"""What is asked for, as `Vocabulary.of_words` takes it."""


@dataclass(frozen=True)
class NewNotes:
    """What is to be made: a note for each of `asked`."""

    model: Address
    asked: Sequence[Words]
    sampling: SamplingConfig
    phase: Phase

    def parts(self) -> list[range]:
        starts = range(0, len(self.asked), NOTES_IN_A_PART)
        return [range(start, min(start + NOTES_IN_A_PART, len(self.asked))) for start in starts]

    def settings(self) -> dict[str, Any]:
        """What the notes follow from."""
        return {
            "model": model_fingerprint(self.model),
            "asked": [{name: to_plain(value) for name, value in words.items()} for words in self.asked],
            "sampling": to_plain(self.sampling),
            "phase": self.phase,
        }


def read_prompts(file: str, model: Address, common: Words, count: int) -> list[Words]:
    """What each note is asked for: a row's own words, and for the rest those that all rows have in common.

    Raises ValueError, naming the row, for columns that there are not and words that the model does not know.
    """
    folder, name = Folder.of(file)
    vocabulary, asked = model_of(model).vocabulary, list[Words]()
    for number, row in enumerate(rows_of(folder.read(name), name, required=()), start=1):
        try:
            if unknown := row.keys() - {*WORDS, COUNT}:
                raise ValueError(f"{sorted(unknown)[0]!r} is no column: choose {', '.join((*WORDS, COUNT))}")
            words = dict(common) | {name: word(name, row[name]) for name in WORDS if row.get(name) not in (None, "")}
            if isinstance(qualities := words.get("qualities", ()), str):
                words["qualities"] = qualities.split()
            elif not isinstance(qualities, list | tuple):
                raise ValueError(f"qualities is {qualities!r:.40}, must be words such as bright percussive")
            num = whole_number(COUNT, row.get(COUNT, count))
            if num < 0:
                raise ValueError(f"{COUNT} is {num}, must be 0 or more")
            vocabulary.of_words(1, **words)
        except ValueError as error:
            raise ValueError(f"{file}: row {number}: {error}") from None
        asked += [words] * num
    if not asked:
        raise ValueError(f"{file}: asks for no notes: a row for each, with columns such as pitch and family")
    return asked


def word(column: str, value: Any) -> Any:
    """As `Vocabulary.of_words` takes it: JSON may have a number for an instrument's name, as labels may."""
    if column in ("pitch", "velocity"):
        return whole_number(column, value)
    return value if column == "qualities" else str(value)


def make(notes: NewNotes, out: Folder, over: Map, say: Say) -> None:
    """Into the folder; parts that are there already are kept.

    Raises ValueError where it holds other notes, or the model cannot sample so.
    """
    notes.sampling.per_scale(model_of(notes.model).autoregressor.schedule)  # refused before anything is kept
    plain, there, kept = notes.settings(), out.list(), out.sub(PARTS).list()
    before = out.read_json(SETTINGS) if SETTINGS in there else plain
    if (difference := first_difference(before, plain)) and (kept or LABELS in there):
        raise ValueError(f"{out.name}: holds other notes, of {difference:.200}: choose another --out")
    if LABELS in there and SETTINGS not in there:
        raise ValueError(f"{out.name}: holds other notes, which mars sample did not make: choose another --out")
    if LABELS in there:
        say(f"{out.name}: finished already, {len(notes.asked)} notes: nothing to do")
        return
    out.write(SETTINGS, as_json(plain))
    missing = [part for part in notes.parts() if name_of(part) not in kept]
    done = len(notes.asked) - sum(map(len, missing))
    for part in over(partial(make_part, notes=notes, out=out), missing):
        done += len(part)
        say(f"notes {done}/{len(notes.asked)}")
    with ThreadPoolExecutor(out.at_once) as readers:
        parts = readers.map(out.sub(PARTS).read_json, map(name_of, notes.parts()))
        rows = [row for part in parts for row in part]
    out.write(LABELS, table(rows))  # written last: its presence means finished
    out.delete_folder(PARTS)
    say(f"{out.link(LABELS)}: {len(rows)} notes")


def name_of(part: range) -> str:
    return f"{part.start:08d}.json"


@torch.inference_mode()
def make_part(part: range, notes: NewNotes, out: Folder) -> range:
    """The notes' files, then their labels: as they were asked for, or drawn."""
    mars, ids = model_of(notes.model), list(part)
    asked = [mars.vocabulary.of_words(1, **notes.asked[i]) for i in ids]
    together = {name: torch.cat([one[name] for one in asked]) for name in mars.vocabulary.cardinalities}
    conditions = mars.complete(together, ids, notes.sampling)
    pictures_B1FN = mars.sample_pictures(conditions, ids, notes.sampling)
    waves_BT = wave_from_picture(pictures_B1FN, mars.spectrogram, notes.phase).cpu().numpy()
    names, audio = [f"{i:08d}.wav" for i in ids], out.sub(AUDIO)
    with ThreadPoolExecutor(out.at_once) as writers:
        files = [wav_bytes(wave_T, mars.spectrogram.sample_rate) for wave_T in waves_BT]
        list(writers.map(audio.write, names, files))  # raises what one of them raised
    described = zip(names, mars.vocabulary.to_words(conditions), strict=True)
    rows = [{"file": f"{AUDIO}/{name}"} | words for name, words in described]
    out.sub(PARTS).write(name_of(part), as_json(rows))
    return part


def table(rows: Sequence[Words]) -> bytes:
    """As CSV, which `mars preprocess` takes as it is; empty: left open."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file", *(name for name in WORDS if name in rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: " ".join(v) if isinstance(v, list) else v for name, v in row.items()} for row in rows)
    return text.getvalue().encode()
