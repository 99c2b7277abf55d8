"""Preprocessing and encoding over a cluster: Ray Data runs the jobs of `pictures` and `codes`, one a shard."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from mars_dist import codes
from mars_dist.addresses import Address
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import MANIFEST, DatasetInfo, Rejected, require_pictures, require_same, require_shards
from mars_dist.distributed.cluster import over_cluster, over_gpus, stream_over_cluster
from mars_dist.lease import sole_writer
from mars_dist.model import load_tokenizer
from mars_dist.pictures import SHARD, Job, Made, arrays, estimate_bytes, find_made, make_shard, plan, with_contents
from mars_dist.progress import Say
from mars_dist.sources.read import read_source
from mars_dist.sources.source import fingerprint
from mars_dist.storage import Folder
from mars_dist.whole import HALF_WRITTEN

SECONDS_BETWEEN_LINES = 3
SHOWN = 5
"""Rejected notes that are printed; dataset.json lists all."""


def preprocess(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: SpectrogramConfig,
    shard_rows: int = 256,
    progress: Say = print,
) -> DatasetInfo:
    """Turn the notes of a source (`sources.read`) into a data set of pictures in the folder `out`; local or s3://.

    Shards have deterministic names and bytes; those that are there already are kept, so a run that was broken off goes
    on. A note that cannot be used is left out and listed in dataset.json with the reason. Raises ValueError for a bad
    source or one that changes or cannot be read meanwhile, for a folder that cannot be written, holds another data set
    or is being written by another run, and where no note could be used.
    """
    source = str(source)
    notes, folder = read_source(source), Folder.open(str(out))
    notes_print = fingerprint(notes)
    done = _finished(folder, notes_print, config)
    if done is not None:
        mended = f", {len(done.rejected)} rejected (if one is mended now, delete {MANIFEST})" if done.rejected else ""
        progress(f"{out}: finished already, {_counted(done)}{mended}: nothing to do")
        return done
    jobs = plan(notes.splits.values(), shard_rows)
    if not jobs:
        raise none_usable(source, notes.rejected)
    try:
        with sole_writer(folder, progress) as require_held:
            found = find_made(jobs, folder, config)
            require_room(folder, estimate_bytes(notes.splits.values(), config), len(found) / len(jobs), progress)
            made = make_shards(jobs, found, folder, config, progress)
            rejected = (*notes.rejected, *(note for one in made for note in one.rejected))
            info = DatasetInfo(
                kind="pictures",
                spectrogram=config,
                arrays=arrays(config),
                shards=tuple(one.shard for one in made if one.shard.rows),
                source=notes_print,
                notice=notes.notice,
                rejected=rejected,
            )
            if not info.shards:
                raise none_usable(source, rejected)
            del notes, jobs  # or the driver would hold the labels twice
            if fingerprint(read_source(source)) != notes_print:
                raise ValueError(f"{source}: has changed while it was read: run the same command again")
            finish(folder, info, require_held)
    except OSError as error:
        raise _cannot_be_written(out, error) from error
    for note in rejected[:SHOWN]:
        progress(f"rejected {note.note_str} ({note.split}): {note.reason}")
    more = f", {len(rejected) - SHOWN} more of them in {MANIFEST}" if len(rejected) > SHOWN else ""
    num_notes = sum(info.counts.values()) + len(rejected)
    progress(f"{out}: {_counted(info)} from {num_notes} notes, {len(rejected)} rejected{more}")
    return info


def encode(pictures: str, tokenizer: Address, out: str, progress: Say = print) -> DatasetInfo:
    """Turn a data set of pictures into one of codes and latents, shard by shard, in the folder `out`.

    Shards that are there already are kept. Raises ValueError where pictures and tokenizer do not fit, for a tokenizer
    that is trained on meanwhile, and for a folder that cannot be written or holds another data set.
    """
    _, run = load_tokenizer(tokenizer)
    source = DatasetInfo.load(Folder.open(pictures))
    require_pictures(run.spectrogram, source, pictures)
    info, folder = codes.info_of(source, tokenizer, run.tokenizer), Folder.open(out)
    names = _names_in(folder)
    if MANIFEST in names:
        if DatasetInfo.load(folder) != info:
            raise ValueError(
                f"{out}: holds another data set than these pictures and this tokenizer give: choose another --out"
            )
        if _all_there(info, names):
            progress(f"{out}: finished already, {_counted(info)}: nothing to do")
            return info
    try:
        with sole_writer(folder, progress) as require_held:
            encode_shards(info, source, pictures, tokenizer, folder, progress)
            finish(folder, info, require_held)
    except OSError as error:
        raise _cannot_be_written(out, error) from error
    progress(f"{out}: {_counted(info)}")
    return info


def make_shards(
    jobs: list[Job], found: list[Made], folder: Folder, config: SpectrogramConfig, progress: Say
) -> list[Made]:
    """What became of the jobs, in their order, with a line of progress every few seconds. Raises OSError."""
    num_notes = sum(len(job.part.entries) for job in jobs)
    results = {made.shard.name: made for made in found}
    notes_seen = notes_kept = sum(made.num_notes for made in found)
    start, said, peak = None, monotonic(), 0
    for made in spread([job for job in jobs if job.shard not in results], folder, config):
        now = monotonic()
        if start is None:  # the workers have started: what follows tells their speed
            start, notes_kept = now, notes_seen + made.num_notes
        results[made.shard.name], peak = made, max(peak, made.peak_bytes)
        notes_seen += made.num_notes
        if now - said > SECONDS_BETWEEN_LINES or len(results) == len(jobs):
            said, speed = now, (notes_seen - notes_kept) / max(now - start, 1e-9)
            left = f"{(num_notes - notes_seen) / speed:.0f} s left" if speed else "starting"
            progress(
                f"shards {len(results)}/{len(jobs)} ({len(found)} kept) | notes {notes_seen}/{num_notes} | "
                f"{speed:.0f} notes/s | {left} | a worker's peak {peak / 2**20:.0f} MiB"
            )
    assert notes_seen == num_notes and len(results) == len(jobs), "a row lost or doubled"
    return [results[job.shard] for job in jobs]


def spread(jobs: list[Job], folder: Folder, config: SpectrogramConfig) -> Iterator[Made]:
    """The jobs' results as they come. Files are read by those who need them, archives by one process each."""
    work = partial(make_shard, folder=folder, config=config)
    if by_file := [job for job in jobs if job.part.archive is None]:
        yield from over_cluster(work, by_file)
    by_archive: dict[str, list[Job]] = {}
    for job in jobs:
        if job.part.archive is not None:
            by_archive.setdefault(job.part.archive, []).append(job)
    if by_archive:
        yield from stream_over_cluster(with_contents, work, by_archive.values())


def encode_shards(
    info: DatasetInfo, source: DatasetInfo, pictures: str, tokenizer: Address, folder: Folder, progress: Say
) -> None:
    """From `source` to `info`. Raises OSError, ValueError as codes.make_shard."""
    total, encoded, start = sum(info.counts.values()), 0, monotonic()
    alone = replace(source, shards=())  # each shard is told of by its piece of work
    work = partial(
        codes.make_shard,
        source=alone,
        pictures=pictures,
        tokenizer=tokenizer,
        fingerprint=info.tokenizer,
        folder=folder,
    )
    for seen, rows in enumerate(over_gpus(work, info.shards), start=1):
        encoded += rows
        speed = encoded / (monotonic() - start)
        progress(f"shards {seen}/{len(info.shards)} | notes {encoded}/{total} | {speed:.0f} notes/s")
    assert encoded == total, "a row lost or doubled"


def require_room(folder: Folder, num_bytes: int, share_made: float, progress: Say) -> None:
    """Tell what the shards will take. Raises ValueError where the disk has no room for those that are not there yet."""
    missing = num_bytes * (1 - share_made)
    free = folder.free_bytes()
    room = "" if free is None else f", {free / 2**30:.1f} GiB are free"
    progress(f"{folder.name}: takes about {num_bytes / 2**30:.2f} GiB{room}")
    if free is not None and missing > free:
        raise ValueError(
            f"{folder.name}: about {missing / 2**30:.2f} GiB are still to be written{room}: free some, or choose "
            "another --out"
        )


def none_usable(source: str, rejected: Sequence[Rejected]) -> ValueError:
    return ValueError(
        f"{source}: none of its {len(rejected)} notes could be used, the first because: {rejected[0].reason}"
    )


def finish(folder: Folder, info: DatasetInfo, require_held: Callable[[], None]) -> None:
    """Declare the data set complete, once each shard in the folder is the one that was made."""
    require_shards(folder, info.shards)
    require_held()
    info.save(folder)
    _delete_leftovers(folder, info)


def _finished(folder: Folder, notes_print: str, config: SpectrogramConfig) -> DatasetInfo | None:
    """The data set that is there, complete; None where there is still work. Raises ValueError where it is another."""
    names = _names_in(folder)
    if MANIFEST not in names:
        return None
    info = DatasetInfo.load(folder)
    if info.kind != "pictures":
        raise ValueError(f"{folder.name}: holds a data set of {info.kind}: choose another --out")
    require_same(config, info)
    if info.source != notes_print:
        raise ValueError(
            f"{folder.name}: holds pictures of other notes than --source has now: choose another --out, or delete "
            f"its {MANIFEST} to bring it up to date"
        )
    return info if _all_there(info, names) else None


def _names_in(out: Folder) -> set[str]:
    """Raises ValueError where it cannot be read."""
    try:
        return out.list()
    except OSError as error:
        raise ValueError(f"{out.name}: cannot be read ({error}): choose another --out") from error


def _all_there(info: DatasetInfo, names: set[str]) -> bool:
    """Whether no shard is missing: one that is damaged is deleted to be made again."""
    return {shard.name for shard in info.shards} <= names


def _cannot_be_written(out: str | os.PathLike[str], error: OSError) -> ValueError:
    return ValueError(
        f"{out}: cannot be written ({error}): choose another --out, or mend it and run the same command again, "
        "which keeps the finished shards"
    )


def _delete_leftovers(folder: Folder, info: DatasetInfo) -> None:
    """What a run that was broken off left behind."""
    listed = {shard.name for shard in info.shards}
    for name in folder.list() - listed:
        if SHARD.fullmatch(name) or (name.startswith(".") and name.endswith(HALF_WRITTEN)):
            folder.delete(name)


def _counted(info: DatasetInfo) -> str:
    return ", ".join(f"{rows} {split}" for split, rows in info.counts.items())
