"""Which kind of source a name is."""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mars_dist.notes import RECORD
from mars_dist.nsynth import SPLITS
from mars_dist.sources import archive, nsynth_folder
from mars_dist.sources.archive import SUFFIXES
from mars_dist.sources.labelled import TABLES, read_labelled
from mars_dist.sources.source import Source, Split, cannot_be_read
from mars_dist.storage import Folder

TABLE_SUFFIXES = (".csv", ".jsonl")


def read_source(name: str | Path) -> Source:
    """A folder in NSynth's format or one that holds its archives, an archive, a folder of audio with labels.csv or
    labels.jsonl, or such a table itself; local or s3://.

    Raises ValueError, naming the file and what is wrong with it.
    """
    try:
        return _read(str(name))
    except NotADirectoryError as error:
        told = f"it must be a folder, or a file whose name ends in {', '.join((*SUFFIXES, *TABLE_SUFFIXES))}"
        raise ValueError(f"{name}: cannot be read ({error.strerror}): {told}") from error
    except OSError as error:
        raise cannot_be_read(str(name), error) from error


def _read(name: str) -> Source:
    folder = Folder.open(name)
    file = PurePosixPath(folder.path).name
    if file.endswith(SUFFIXES):
        return Source(by_name(archive.splits_of(folder.sub(".."), file)))
    if file.endswith(TABLE_SUFFIXES):
        return read_labelled(folder.sub(".."), file)
    names = folder.list()
    if not names:
        raise ValueError(f"{name}: no such folder, or nothing in it: check the path")
    splits = nsynth_folder.splits_of(folder)
    for one in sorted(names):
        if one.startswith("nsynth-") and one.endswith(SUFFIXES):
            splits += archive.splits_of(folder, one)
    if splits:
        if len(by_name(splits)) < len(splits):
            raise ValueError(f"{name}: has a split twice, as a folder and in an archive: keep one of them")
        return Source(by_name(splits), notice=notice_of(folder) if RECORD in names else "")
    for table in TABLES:
        if table in names:
            return read_labelled(folder, table)
    raise ValueError(
        f"{name}: no notes here: it must hold nsynth-train/, nsynth-valid/, nsynth-test/ or their .tar.gz, "
        f"itself be one of these, or hold audio and {' or '.join(TABLES)}"
    )


def by_name(splits: Iterable[Split]) -> dict[str, Split]:
    """In the order of SPLITS."""
    return {split.name: split for split in sorted(splits, key=lambda split: SPLITS.index(split.name))}


def notice_of(folder: Folder) -> str:
    """What rendered notes say of themselves."""
    try:
        record = json.loads(folder.read(RECORD))
        settings = record["settings"]
        return f"{record['what']} ({settings['soundfont']}, sha256 {settings['soundfont_sha256']})"
    except (ValueError, TypeError, KeyError) as error:
        told = "render the notes again, or, if mars notes did not make them, call this file something else"
        raise ValueError(f"{folder.name}/{RECORD}: no record of a render ({error!r}): {told}") from error
