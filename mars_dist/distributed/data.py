"""Preprocessing and encoding over a cluster: Ray Data runs the jobs of `pictures` and `codes`, one a shard."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic

from mars_dist import codes
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import HALF_WRITTEN, MANIFEST, DatasetInfo, Folder, Shard, require_same
from mars_dist.distributed.cluster import over_cluster
from mars_dist.model import load_tokenizer
from mars_dist.nsynth import fingerprint, read_source
from mars_dist.pictures import Job, Made, arrays, make_shard, plan
from mars_dist.progress import Say

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
    """Turn the notes in the folder `source` into a data set of pictures in the folder `out`, local or s3://.

    Shards have deterministic names and bytes; those that are there already are kept, so a run that was broken off goes
    on. A wav that cannot be read is left out and listed in dataset.json with the reason. Raises ValueError for a bad
    source, a folder that cannot be written or holds another data set, and where no note could be read.
    """
    splits = read_source(Path(source).absolute())
    notes_print = fingerprint(splits.values())
    folder = Folder.open(str(out))
    done = _finished(folder, notes_print, config)
    if done is not None:
        progress(f"{out}: finished already, {_counted(done)}: nothing to do")
        return done

    jobs = plan(splits.values(), shard_rows)
    num_notes = sum(len(job.part.notes) for job in jobs)
    try:
        results = {one.shard: one for one in _run(jobs, num_notes, folder, config, progress)}
        made = [results[job.shard] for job in jobs]
        rejected = tuple(note for one in made for note in one.rejected)
        assert sum(one.rows for one in made) + len(rejected) == num_notes
        for note in rejected[:SHOWN]:
            progress(f"rejected {note.note_str} ({note.split}): {note.reason}")
        if len(rejected) == num_notes:
            first = f", the first because: {rejected[0].reason}" if rejected else ""
            raise ValueError(f"{source}: none of its {num_notes} notes could be used{first}")
        info = DatasetInfo(
            kind="pictures",
            spectrogram=config,
            arrays=arrays(config),
            shards=tuple(Shard(one.shard, one.split, one.rows) for one in made if one.rows),
            source=notes_print,
            notice=_notice(Path(source)),
            rejected=rejected,
        )
        info.save(folder)
        _delete_leftovers(folder, info)
    except OSError as error:
        raise _cannot_be_written(out, error) from error
    more = f", {len(rejected) - SHOWN} more of them in {MANIFEST}" if len(rejected) > SHOWN else ""
    progress(f"{out}: {_counted(info)} from {num_notes} notes, {len(rejected)} rejected{more}")
    return info


def encode(pictures: str, tokenizer: Path, out: str, progress: Say = print) -> DatasetInfo:
    """Turn a data set of pictures into one of codes and latents, shard by shard, in the folder `out`.

    Shards that are there already are kept. Raises ValueError where pictures and tokenizer do not fit, and for a folder
    that cannot be written or holds another data set.
    """
    _, run = load_tokenizer(tokenizer)
    source = DatasetInfo.load(Folder.open(pictures))
    if source.kind != "pictures":
        raise ValueError(f"{pictures}: holds {source.kind}, not pictures: give the --out of mars preprocess")
    require_same(run.spectrogram, source)
    info, folder = codes.info_of(source, tokenizer, run.tokenizer), Folder.open(out)
    if MANIFEST in folder.list():
        if DatasetInfo.load(folder) != info:
            raise ValueError(
                f"{out}: holds another data set than these pictures and this tokenizer give: choose another --out"
            )
        progress(f"{out}: finished already, {_counted(info)}: nothing to do")
        return info
    total, encoded, start = sum(info.counts.values()), 0, monotonic()
    try:
        work = partial(codes.make_shard, pictures=pictures, tokenizer=tokenizer, folder=folder)
        results = over_cluster(work, info.shards)
        for seen, rows in enumerate(results, start=1):
            encoded += rows
            speed = encoded / (monotonic() - start)
            progress(f"shards {seen}/{len(info.shards)} | notes {encoded}/{total} | {speed:.0f} notes/s")
        assert encoded == total
        info.save(folder)
    except OSError as error:
        raise _cannot_be_written(out, error) from error
    progress(f"{out}: {_counted(info)}")
    return info


def _run(jobs: list[Job], num_notes: int, folder: Folder, config: SpectrogramConfig, progress: Say) -> Iterator[Made]:
    """The jobs' results as they come, with a line of progress every few seconds. Raises OSError."""
    start = said = monotonic()
    seen = kept = notes_seen = notes_made = peak = 0
    for made in over_cluster(partial(make_shard, folder=folder, config=config), jobs):
        now = monotonic()
        if not seen:
            start = now  # the workers have started: what follows tells their speed
        elif not made.kept:
            notes_made += made.num_notes
        seen, kept, peak = seen + 1, kept + made.kept, max(peak, made.peak_bytes)
        notes_seen += made.num_notes
        if now - said > SECONDS_BETWEEN_LINES or seen == len(jobs):
            said, speed = now, notes_made / max(now - start, 1e-9)
            left = f"{(num_notes - notes_seen) / speed:.0f} s left" if speed else "starting"
            progress(
                f"shards {seen}/{len(jobs)} ({kept} kept) | notes {notes_seen}/{num_notes} | {speed:.0f} notes/s | "
                f"{left} | a worker's peak {peak / 2**20:.0f} MiB"
            )
        yield made


def _finished(folder: Folder, notes_print: str, config: SpectrogramConfig) -> DatasetInfo | None:
    """The data set that is there, complete; None where there is still work. Raises ValueError where it is another."""
    try:
        names = folder.list()
    except OSError as error:
        raise ValueError(f"{folder.name}: cannot be read ({error}): choose another --out") from error
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
    return info if {shard.name for shard in info.shards} <= names else None


def _cannot_be_written(out: str | os.PathLike[str], error: OSError) -> ValueError:
    return ValueError(
        f"{out}: cannot be written ({error}): choose another --out, or mend it and run the same command again, "
        "which keeps the finished shards"
    )


def _delete_leftovers(folder: Folder, info: DatasetInfo) -> None:
    """What a run that was broken off left behind."""
    listed = {shard.name for shard in info.shards}
    for name in folder.list() - listed:
        if name.endswith((HALF_WRITTEN, ".parquet")):
            folder.delete(name)


def _notice(source: Path) -> str:
    """What rendered notes say of themselves."""
    record = source / "notes.json"
    if not record.is_file():
        return ""
    values = json.loads(record.read_bytes())
    return f"{values['what']} ({values['settings']['soundfont']}, sha256 {values['settings']['soundfont_sha256']})"


def _counted(info: DatasetInfo) -> str:
    return ", ".join(f"{rows} {split}" for split, rows in info.counts.items())
