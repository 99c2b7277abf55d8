"""Notes in NSynth's format, rendered from a soundfont, for whoever has no NSynth. They are not NSynth.

Instruments are General MIDI programs. The test split holds instruments that training never sees, the valid split holds
(instrument, pitch) pairs that it never sees, at every velocity. Suffix: T samples.
"""

import hashlib
import importlib.util
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mars_dist.audio import Wave, resample, write_wav
from mars_dist.cpus import own_cpus
from mars_dist.lease import sole_writer
from mars_dist.nsynth import AUDIO, EXAMPLES, FAMILIES, QUALITIES, SOURCES, SPLITS, VELOCITIES, Note
from mars_dist.progress import say
from mars_dist.serialize import write_json
from mars_dist.storage import Folder

SAMPLE_RATE = 16_000
RENDER_RATE = 48_000
"""Samplers interpolate between samples: what that folds over lies above 8 kHz, and the resampling takes it away."""
HELD = 3
"""Seconds that the key is down."""
RELEASE = 1
"""Seconds after it."""
RECORD, RENDERING = "notes.json", ".rendering"
SILENT = 1e-3
"""A note whose peak lies below is dropped: the program does not reach the pitch."""

PROGRAMS: dict[str, dict[str, tuple[int, ...]]] = {
    "bass": {"acoustic": (32,), "electronic": (33, 34, 35, 36, 37), "synthetic": (38, 39, 87)},
    "brass": {"acoustic": (56, 57, 58, 59, 60, 61), "synthetic": (62, 63)},
    "flute": {"acoustic": (72, 73, 74, 75, 76, 77, 78, 79)},
    "guitar": {"acoustic": (24, 25, 104, 105, 106, 107), "electronic": (26, 27, 28, 29, 30, 31)},
    "keyboard": {"acoustic": (0, 1, 3, 6), "electronic": (2, 4, 5, 7)},
    "mallet": {"acoustic": (8, 9, 10, 11, 12, 13, 14, 15, 47, 108, 112, 114)},
    "organ": {"acoustic": (19, 20, 21, 23), "electronic": (16, 17, 18)},
    "reed": {"acoustic": (22, 64, 65, 66, 67, 68, 69, 70, 71, 109, 111)},
    "string": {"acoustic": (40, 41, 42, 43, 44, 45, 46, 48, 49, 110), "synthetic": (50, 51)},
    "synth_lead": {"synthetic": (80, 81, 82, 83, 84, 86)},
    "vocal": {"acoustic": (52, 53), "synthetic": (54, 85, 91)},
}
"""Family -> source -> General MIDI programs, counted from 0."""


class Instrument(NamedTuple):
    """A program under its NSynth name."""

    number: int
    """Its place in PROGRAMS, whatever is rendered."""
    name: str
    """FAMILY_SOURCE_INDEX."""
    family: str
    source: str
    program: int

    def note(self, pitch: int, velocity: int) -> Note:
        return Note(
            note=(self.number * 128 + pitch) * 128 + velocity,
            note_str=f"{self.name}-{pitch:03d}-{velocity:03d}",
            instrument=self.number,
            instrument_str=self.name,
            pitch=pitch,
            velocity=velocity,
            sample_rate=SAMPLE_RATE,
            qualities=(0,) * len(QUALITIES),
            instrument_family=FAMILIES.index(self.family),
            instrument_source=SOURCES.index(self.source),
        )


def all_instruments() -> list[Instrument]:
    """Every instrument of PROGRAMS; a name's index counts within family and source."""
    places = [
        (f"{family}_{source}_{index:03d}", family, source, program)
        for family, sources in PROGRAMS.items()
        for source, programs in sources.items()
        for index, program in enumerate(programs)
    ]
    return [Instrument(number, *place) for number, place in enumerate(places)]


@dataclass(frozen=True)
class NotesConfig:
    """Which notes are rendered, and how they are split."""

    soundfont: str | None = None
    """An .sf2 file; without one, TimGM6mb.sf2 (GPL-2) of the installed pretty_midi."""
    pitches: tuple[int, int] = (48, 72)
    """The lowest and the highest MIDI pitch, both rendered."""
    velocities: tuple[int, ...] = VELOCITIES
    instruments_per_family: int | None = None
    """Drawn by the seed; without a number, all."""
    test_instruments_per_family: int = 1
    """Drawn by the seed from the family's instruments."""
    valid_share: float = 0.1
    """Share of the remaining (instrument, pitch) pairs that go to the valid split."""
    gain: float = 1.0
    """One factor for all notes; at 1 TimGM6mb peaks at 0.92."""
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.pitches
        if not 0 <= low <= high <= 127:
            raise ValueError(f"notes.pitches: {low} {high} must be the lowest and the highest pitch within 0 to 127")
        if not self.velocities or not all(1 <= velocity <= 127 for velocity in self.velocities):
            given = " ".join(map(str, self.velocities)) or "nothing"
            raise ValueError(f"notes.velocities: {given} must be one or more numbers from 1 to 127")
        if len(set(self.velocities)) < len(self.velocities):
            raise ValueError(f"notes.velocities: {' '.join(map(str, self.velocities))} repeats one: give each once")
        if self.test_instruments_per_family < 0:
            raise ValueError(f"notes.test_instruments_per_family: {self.test_instruments_per_family} is negative")
        smallest = self.test_instruments_per_family + 1
        if self.instruments_per_family is not None and self.instruments_per_family < smallest:
            raise ValueError(
                f"notes.instruments_per_family: {self.instruments_per_family} must be at least {smallest}, since "
                f"test_instruments_per_family = {self.test_instruments_per_family} and training needs one as well"
            )
        if not 0 <= self.valid_share < 1:
            raise ValueError(f"notes.valid_share: {self.valid_share} must lie in [0, 1)")
        if not self.gain > 0:
            raise ValueError(f"notes.gain: {self.gain} must be positive")


@dataclass(frozen=True)
class Plan:
    """Every note that will be rendered, and the split that it belongs to."""

    instruments: tuple[Instrument, ...]
    test: frozenset[int]
    """Numbers of the instruments of the test split."""
    valid: frozenset[tuple[int, int]]
    """(instrument, pitch) pairs of the valid split."""
    pitches: range
    velocities: tuple[int, ...]

    @cached_property
    def num_notes(self) -> int:
        return len(self.instruments) * len(self.pitches) * len(self.velocities)

    def split(self, instrument: Instrument, pitch: int) -> str:
        if instrument.number in self.test:
            return "test"
        return "valid" if (instrument.number, pitch) in self.valid else "train"


def plan(config: NotesConfig, present: list[Instrument]) -> Plan:
    """Draw the splits from the instruments that a font has; each family's draw is its own.

    Raises ValueError where a family has too few instruments for a test split.
    """
    chosen, test = [], set[int]()
    for family in FAMILIES:
        members = [instrument for instrument in present if instrument.family == family]
        if members and len(members) <= config.test_instruments_per_family:
            raise ValueError(
                f"notes.test_instruments_per_family: {config.test_instruments_per_family} leaves no {family} to train "
                f"on, the font has {len(members)}: choose a smaller number"
            )
        # A string seeds through sha512, and so alike on every machine and Python.
        random.Random(f"{config.seed} {family}").shuffle(members)
        members = members[: config.instruments_per_family]
        chosen += members
        test |= {instrument.number for instrument in members[: config.test_instruments_per_family]}
    pitches = range(config.pitches[0], config.pitches[1] + 1)
    chosen.sort()
    pairs = [(instrument.number, pitch) for instrument in chosen if instrument.number not in test for pitch in pitches]
    num_valid = min(max(1, round(config.valid_share * len(pairs))), len(pairs) - 1) if config.valid_share else 0
    valid = random.Random(f"{config.seed} valid").sample(pairs, num_valid)
    return Plan(tuple(chosen), frozenset(test), frozenset(valid), pitches, config.velocities)


class Sampler:
    """A soundfont at RENDER_RATE. Raises ValueError where tinysoundfont is not installed or the file is no font."""

    def __init__(self, font: Path) -> None:
        try:
            import tinysoundfont
        except ImportError as error:
            raise ValueError("rendering needs tinysoundfont: pip install --no-deps tinysoundfont") from error
        # It has neither reverb nor chorus, so there is none to switch off.
        self.synth = tinysoundfont.Synth(samplerate=RENDER_RATE)
        try:
            self.font = self.synth.sfload(str(font))
        except RuntimeError as error:
            raise ValueError(f"notes.soundfont: {font} is not a soundfont: give an .sf2 file") from error

    def has(self, program: int) -> bool:
        return self.synth.sfpreset_name(self.font, 0, program) is not None

    def play(self, program: int, pitch: int, velocity: int) -> Wave:
        """(T,): one note at SAMPLE_RATE, the mean of the font's two channels; no trace of the note before."""
        self.synth.program_select(0, self.font, 0, program)
        self.synth.noteon(0, pitch, velocity)
        held = self.synth.generate(HELD * RENDER_RATE)
        self.synth.noteoff(0, pitch)
        stereo = np.frombuffer(bytes(held) + bytes(self.synth.generate(RELEASE * RENDER_RATE)), np.float32)
        self.synth.sounds_off(0)
        self.synth.generate(RENDER_RATE // 10)  # the last voices fade within 512 samples
        return resample(stereo.reshape(-1, 2).mean(axis=1), RENDER_RATE, SAMPLE_RATE)


def render(
    out: str | os.PathLike[str],
    config: NotesConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Render the notes into the folder `out`, a source as `sources.read` takes it, and return its notes.json.

    notes.json is written last: where it is there with the same settings nothing is done. The files do not depend on
    the number of processes (the machine's processors unless given). `progress` is told notes done and notes in all.
    Raises ValueError for a bad soundfont, a folder that cannot be written or holds anything else, and other settings.
    """
    if "://" in str(out):
        raise ValueError(f"{out}: notes are rendered into a local folder: `mars preprocess` writes to storage")
    out, font = Path(out), _find_soundfont(config.soundfont)
    settings = {
        **json.loads(json.dumps(asdict(config))),
        "soundfont": font.name,
        "soundfont_sha256": hashlib.sha256(font.read_bytes()).hexdigest(),
    }
    if (done := _finished(out, settings)) is not None:
        return done
    sampler = Sampler(font)
    present = [instrument for instrument in all_instruments() if sampler.has(instrument.program)]
    if not present:
        raise ValueError(f"notes.soundfont: {font} has none of the General MIDI programs: give a General MIDI font")
    notes = plan(config, present)
    with _workshop(out) as workshop:
        peaks = _render_instruments(font, config.gain, notes, workshop, progress, processes)
        examples: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
        for instrument in notes.instruments:
            for pitch in notes.pitches:
                for velocity in notes.velocities:
                    note = instrument.note(pitch, velocity)
                    if peaks[note.note_str] >= SILENT:
                        examples[notes.split(instrument, pitch)][note.note_str] = note.to_json()
        for split, entries in examples.items():
            if entries:
                write_json(workshop / f"nsynth-{split}" / EXAMPLES, entries)
                os.replace(workshop / f"nsynth-{split}", out / f"nsynth-{split}")

        record = {
            "what": "rendered from a soundfont, not NSynth: set no number from these notes beside one from NSynth",
            "settings": settings,
            "counts": {split: len(entries) for split, entries in examples.items()},
            "splits": {
                "test": "instruments that no other split has, drawn by the seed from each family",
                "valid": "(instrument, pitch) pairs that train does not have, at every velocity, drawn by the seed",
                "test_instruments": [i.name for i in notes.instruments if i.number in notes.test],
            },
            "programs": {i.name: i.program for i in notes.instruments},
            "programs_not_in_font": sorted({i.program for i in all_instruments()} - {i.program for i in present}),
            "peak": max(peaks.values()),
            "num_clipped": sum(peak > 1 for peak in peaks.values()),
            "silent_dropped": sorted(name for name, peak in peaks.items() if peak < SILENT),
        }
        write_json(out / RECORD, record)
    return record


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """Where splits are made, by this run alone, to be moved to their place whole: a broken render leaves nothing that
    looks done."""
    workshop = out / RENDERING
    with ExitStack() as held:
        try:
            held.enter_context(sole_writer(Folder.open(out), say))
            for broken_off in (*(out / f"nsynth-{split}" for split in SPLITS), workshop):
                shutil.rmtree(broken_off, ignore_errors=True)
            for split in SPLITS:
                (workshop / f"nsynth-{split}" / AUDIO).mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"{out}: cannot be written ({error.strerror}): choose another folder") from error
        yield workshop
        shutil.rmtree(workshop)


def _render_instruments(
    font: Path, gain: float, notes: Plan, workshop: Path, progress: Callable[[int, int], None], processes: int | None
) -> dict[str, float]:
    """Write every note's wav file; the peak of each note by its name."""
    peaks: dict[str, float] = {}
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(processes or own_cpus(), get_context("spawn")) as pool:
        tasks = [pool.submit(_render_instrument, font, gain, notes, i, workshop) for i in notes.instruments]
        try:
            for task in as_completed(tasks):
                peaks |= task.result()
                progress(len(peaks), notes.num_notes)
        except BaseException:  # Ctrl-C above all: what has not begun shall not begin
            pool.shutdown(cancel_futures=True)
            raise
    return peaks


def _render_instrument(
    font: Path, gain: float, notes: Plan, instrument: Instrument, workshop: Path
) -> dict[str, float]:
    """Write one instrument's notes; the peak of each, silent ones too, which are not written."""
    import torch

    torch.set_num_threads(1)  # the processes share the machine already
    sampler = Sampler(font)
    peaks = {}
    for pitch in notes.pitches:
        for velocity in notes.velocities:
            wave_T = sampler.play(instrument.program, pitch, velocity) * np.float32(gain)
            name = instrument.note(pitch, velocity).note_str
            peaks[name] = float(np.abs(wave_T).max())
            if peaks[name] >= SILENT:
                folder = workshop / f"nsynth-{notes.split(instrument, pitch)}" / AUDIO
                write_wav(folder / f"{name}.wav", wave_T, SAMPLE_RATE)
    return peaks


def _find_soundfont(given: str | None) -> Path:
    if given is None:
        # Looked up, not imported: the import takes a second, and only the file beside it is wanted.
        package = importlib.util.find_spec("pretty_midi")
        if package is None or package.origin is None:
            raise ValueError("notes.soundfont: none given, and pretty_midi, which has one, is not installed: give one")
        return Path(package.origin).parent / "TimGM6mb.sf2"
    if not Path(given).is_file():
        raise ValueError(f"notes.soundfont: {given} is not a file: give an .sf2 file")
    return Path(given)


def _finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The notes.json of a finished render with the same settings; None where nothing is there yet."""
    path = out / RECORD
    if path.is_file():
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
            rendered = dict(record["settings"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: not the record of a render: choose another folder") from error
        for name, value in settings.items():
            if (before := rendered.get(name)) != value:
                raise ValueError(
                    f"notes.{name}: {value} differs from {before}, with which {out} was rendered: "
                    "choose another folder or delete that one"
                )
        return record
    for name in (f"nsynth-{split}" for split in SPLITS):
        moved_there = (out / RENDERING).exists() and not (out / RENDERING / name).exists()
        if (out / name).exists() and not moved_there:
            raise ValueError(f"{out}: holds {name}, and no notes.json of a render: choose another folder")
    return None
