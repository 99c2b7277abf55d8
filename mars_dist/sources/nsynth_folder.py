"""A folder in NSynth's format, on a disk or in S3."""

import os

from mars_dist.nsynth import AUDIO, EXAMPLES, SPLITS, notes_of
from mars_dist.sources.source import Entry, Split
from mars_dist.storage import Folder


def splits_of(folder: Folder) -> list[Split]:
    """The splits in a folder that holds nsynth-train/, nsynth-valid/ and nsynth-test/, or some of them.

    A folder that is a split itself is known by its name, and is the train split where the name says nothing. Whether a
    note's file can be read is not looked at. Raises ValueError, naming the file, the note and the key, for what is not
    in the format; OSError.
    """
    names = folder.list()
    places = {name: folder.sub(f"nsynth-{name}") for name in SPLITS if f"nsynth-{name}" in names}
    if not places and EXAMPLES in names:
        name = os.path.normpath(folder.path).rsplit("/", 1)[-1].removeprefix("nsynth-")
        places = {name if name in SPLITS else "train": folder}
    return [split_of(name, place) for name, place in places.items()]


def split_of(name: str, folder: Folder) -> Split:
    names = folder.list()
    for part in (EXAMPLES, AUDIO):
        if part not in names:
            raise ValueError(f"{folder.name}: no {part}: a split holds {EXAMPLES} and {AUDIO}/")
    notes = notes_of(folder.read(EXAMPLES), f"{folder.name}/{EXAMPLES}")
    sizes = folder.sub(AUDIO).sizes()
    files = [f"{note.note_str}.wav" for note in notes]
    return Split(
        name,
        folder,
        tuple(Entry(note, f"{AUDIO}/{file}", sizes.get(file)) for note, file in zip(notes, files, strict=True)),
    )
