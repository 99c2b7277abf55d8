"""Every reader of files that a stranger may have made, on valid files that were harmed at random.

    python benchmarks/fuzz.py --inputs 100000

A reader gives a result or raises ValueError; anything else, more than five seconds, or a file that appears where none
should, is a failure: the input is kept, and the script ends with 1. Printed by reader: inputs, refusals, and how many
lines of its module were reached.
"""
# ruff: noqa: E402

import io
import json
import os
import random
import signal
import sys
import tarfile
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import FrameType

import coverage

MEASURED = coverage.Coverage(data_file=None, source_pkgs=["mars_dist"], messages=False)
if __name__ == "__main__":  # before what it measures is imported
    MEASURED.start()

import numpy as np
import soundfile
import torch
from harm import GZIP, harmed

from mars_dist import audio, dataset, histogram, model, nsynth, weights
from mars_dist.autoregressor import Autoregressor
from mars_dist.conditions import Vocabulary
from mars_dist.config import (
    AutoregressorConfig,
    AutoregressorRunConfig,
    SpectrogramConfig,
    TokenizerConfig,
    TokenizerRunConfig,
)
from mars_dist.dataset import MANIFEST, Array, DatasetInfo, Rejected, Shard
from mars_dist.histogram import Histogram
from mars_dist.sampling import SamplingConfig
from mars_dist.scales import Size
from mars_dist.sources import archive, labelled
from mars_dist.storage import Folder
from mars_dist.tokenizer import Tokenizer

SECONDS = 5
MODEL = "model"
CONFIG = SpectrogramConfig(num_samples=400, n_fft=64, hop=50)
ENTRY = {
    "note": 1, "note_str": "guitar-060-100", "instrument": 2, "instrument_str": "guitar", "pitch": 60, "velocity": 100,
    "sample_rate": 16_000, "qualities": [0] * 10, "instrument_family": 3, "instrument_source": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """What is fed with harmed files, and valid ones to begin with."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    covers: str
    """The module whose lines are counted."""


def readers(folder: Path) -> dict[str, Reader]:
    """By their names; they may write below the folder alone."""
    return data_readers(folder) | model_readers(folder)


def data_readers(folder: Path) -> dict[str, Reader]:
    """Of what `mars preprocess` is given."""
    here = Folder.open(folder)

    def read_archive(content: bytes) -> None:
        name = "x.tar.gz" if content[:2] == GZIP else "x.tar"
        (folder / name).write_bytes(content)
        splits = archive.splits_of(here, name)
        for _, part in archive.filled(splits):
            for entry in part.entries:
                if entry.size is not None:
                    part.wave(entry, CONFIG)

    def read_labels(content: bytes, table: str) -> None:
        (folder / table).write_bytes(content)
        source = labelled.read_labelled(here, table)
        for split in source.splits.values():
            paths = [PurePosixPath(entry.file) for entry in split.entries]
            assert not any(path.is_absolute() or ".." in path.parts for path in paths)

    def read_dataset(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(content)
        for shard in DatasetInfo.load(here).shards:
            assert Path(os.path.normpath(here.at(shard.name))).parent == folder

    return {
        "wav, strictly": Reader(lambda content: audio.read_note(content, 16_000, 400), wavs(), audio.__file__),
        "any audio": Reader(lambda content: audio.convert_note(content, 16_000, 400), sounds(), audio.__file__),
        "archive": Reader(read_archive, archives(), archive.__file__),
        "examples.json": Reader(lambda content: nsynth.notes_of(content, "x"), (examples(),), nsynth.__file__),
        "labels.csv": Reader(lambda content: read_labels(content, "labels.csv"), (csv_table(),), labelled.__file__),
        "labels.jsonl": Reader(lambda content: read_labels(content, "labels.jsonl"), (jsonl(),), labelled.__file__),
        "dataset.json": Reader(read_dataset, (manifest(here),), dataset.__file__),
    }


def model_readers(folder: Path) -> dict[str, Reader]:
    """Of a model's folder, in which one file at a time is harmed."""
    save_model(folder)

    def load_and_draw() -> None:
        mars = model.Mars.from_pretrained(inside)
        mars.complete(mars.vocabulary.of_words(1), [0], SamplingConfig())

    def reader(path: Path, covers: str, load: Callable[[], object] = load_and_draw) -> Reader:
        def read(content: bytes) -> None:
            path.write_bytes(content)
            try:
                load()
            finally:
                path.write_bytes(whole)

        whole = path.read_bytes()
        return Reader(read, (whole,), covers)

    inside = folder / MODEL
    tokenizer = inside / model.TOKENIZER
    return {
        "config.json": reader(inside / model.CONFIG, model.__file__),
        "a tokenizer's config.json": reader(
            tokenizer / model.CONFIG, model.__file__, lambda: model.load_tokenizer(tokenizer)
        ),
        "model.safetensors": reader(inside / model.WEIGHTS, weights.__file__),
        "histogram.safetensors": reader(inside / model.HISTOGRAM, histogram.__file__),
    }


# ---- valid files


def sound(kind: str, rate: int = 16_000, channels: int = 1, **options: str) -> bytes:
    wave_TC = np.sin(np.arange(400))[:, None].repeat(channels, 1) * 0.5
    file = io.BytesIO()
    soundfile.write(file, wave_TC, rate, format=kind, **options)
    return file.getvalue()


def wavs() -> tuple[bytes, ...]:
    return tuple(sound("wav", subtype=subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW"))


def sounds() -> tuple[bytes, ...]:
    kinds = ("flac", "ogg", "aiff", "au", "caf", "mp3")
    return (*wavs(), sound("wav", 44_100, 2), *(sound(kind, 44_100, 2) for kind in kinds))


def examples() -> bytes:
    return json.dumps({"guitar-060-100": ENTRY, "b": ENTRY | {"note_str": "b", "qualities": [1] * 10}}).encode()


def archives() -> tuple[bytes, ...]:
    files = {"nsynth-test/examples.json": examples(), "nsynth-test/audio/guitar-060-100.wav": wavs()[0]}
    made = []
    for mode in ("w:gz", "w:"):
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode=mode, format=form) as packed:
                for name, content in files.items():
                    info = tarfile.TarInfo(name)
                    info.size, info.uname = len(content), "somebody with a long name" * 5 if mode == "w:" else ""
                    packed.addfile(info, io.BytesIO(content))
            made.append(file.getvalue())
    return tuple(made)


def csv_table() -> bytes:
    return (
        b"file,pitch,family,velocity,instrument,source,qualities,split\n"
        b'a/b.wav,60,guitar,100,"one, two",acoustic,bright dark,train\nc.wav,61,bass,,,,,\n'
    )


def jsonl() -> bytes:
    rows = [
        {"file": "a/b.wav", "pitch": 60, "family": "guitar", "split": "valid"},
        {"file": "c", "pitch": 1, "family": 2},
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def manifest(folder: Folder) -> bytes:
    arrays, shards = (Array("picture", (2, 3, 4), "float16"),), (Shard("train-00000.parquet", "train", 150, "abc"),)
    DatasetInfo("pictures", CONFIG, arrays, shards, "abc", rejected=(Rejected("a", "train", "b"),)).save(folder)
    return folder.read(MANIFEST)


def save_model(folder: Path) -> None:
    """A small one, not trained."""
    scales, config = (Size(1, 1), Size(1, 2), Size(3, 2)), replace(CONFIG, cmx=Size(8, 1))
    settings = TokenizerConfig(Size(4, 4), scales, codebook_size=16, code_width=6, width=16, depth=1, head_width=8)
    tokenizer = TokenizerRunConfig(config, settings)
    run = AutoregressorRunConfig(AutoregressorConfig(width=16, depth=1, head_width=8))
    vocabulary = Vocabulary(instruments=("bass_001", "reed_002"), qualities=True)
    network = Autoregressor(run.autoregressor, tokenizer.tokenizer, vocabulary.cardinalities)
    counts = Histogram.of({name: torch.arange(4) % 2 for name in vocabulary.cardinalities})
    trained = folder / "tokenizer"
    model.save_tokenizer(trained, Tokenizer(tokenizer.tokenizer, config).state_dict(), tokenizer, {})
    model.keep_tokenizer(folder / MODEL, trained)
    model.save_autoregressor(folder / MODEL, network.state_dict(), run, vocabulary, counts, {})


# ---- the run


def fuzz(reader: Reader, num: int, rng: random.Random) -> tuple[int, bytes | None, str]:
    """How many inputs were refused; and the first that failed, with what it did."""
    refused = 0
    for content in reader.seeds:  # valid ones are read; what is loaded on the way takes its time
        reader.read(content)
    for _ in range(num):
        content = harmed(rng.choice(reader.seeds), reader.seeds, rng)
        signal.alarm(SECONDS)
        try:
            reader.read(content)
        except ValueError as error:
            refused += 1
            if "\n" in str(error).strip():
                return refused, content, f"a message of several lines: {error}"
        except BaseException as error:
            return refused, content, repr(error)
        finally:
            signal.alarm(0)
    return refused, None, ""


def covered(module: str) -> str:
    _, statements, _, missing, _ = MEASURED.analysis2(module)
    return f"{len(statements) - len(missing)} of {len(statements)}"


def late(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not done after {SECONDS} s")


def run(num: int, seed: int, keep: Path) -> Mapping[str, int]:
    """Failures by reader; prints the table."""
    signal.signal(signal.SIGALRM, late)
    failures: dict[str, int] = {}
    with TemporaryDirectory() as name:
        inside = Path(name) / "inside"
        inside.mkdir()
        found = readers(inside)
        there = {path.relative_to(inside) for path in inside.rglob("*") if path.is_file()}
        print("| reader | inputs | refused | lines of its module |\n|---|--:|--:|--:|")
        for reader_name, reader in found.items():
            refused, failed, what = fuzz(reader, num // len(found) + 1, random.Random(seed))
            row = (reader_name, num // len(found) + 1, refused, covered(reader.covers))
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            failures[reader_name] = int(failed is not None)
            if failed is not None:
                path = keep / f"failed-{reader_name.replace(' ', '-')}"
                path.write_bytes(failed)
                print(f"{path}: {what}", file=sys.stderr)
        allowed = {"x.tar.gz", "x.tar", "labels.csv", "labels.jsonl", MANIFEST}
        files = {path.relative_to(inside) for path in Path(name).rglob("*") if path.is_file()}
        escaped = [path for path in files - there if path.name not in allowed]
        failures["files elsewhere"] = len(escaped)
    return failures


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("."), help="folder for inputs that fail")
    options = parser.parse_args()
    failures = run(options.inputs, options.seed, options.keep)
    print(f"\nfailures: {sum(failures.values())}")
    sys.exit(any(failures.values()))


if __name__ == "__main__":
    main()
