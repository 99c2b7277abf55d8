"""The NSynth format: a note's labels, as an entry of examples.json, which lies beside audio/NOTE_STR.wav.

Engel 2017, arXiv 1704.01279; https://magenta.withgoogle.com/datasets/nsynth
"""

import json
from dataclasses import dataclass, fields
from typing import Any

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # fmt: skip
SOURCES = ("acoustic", "electronic", "synthetic")
QUALITIES = (
    "bright", "dark", "distortion", "fast_decay", "long_release", "multiphonic", "nonlinear_env", "percussive",
    "reverb", "tempo-synced",
)  # fmt: skip
VELOCITIES = (25, 50, 75, 100, 127)
SPLITS = ("train", "valid", "test")
EXAMPLES, AUDIO = "examples.json", "audio"

# The largest value of each number in an entry; the smallest is 0.
LARGEST = {
    "note": 2**63 - 1,
    "instrument": 2**63 - 1,
    "pitch": 127,
    "velocity": 127,
    "sample_rate": 2**31 - 1,
    "instrument_family": len(FAMILIES) - 1,
    "instrument_source": len(SOURCES) - 1,
}


@dataclass(frozen=True)
class Note:
    """One entry of examples.json; names that NSynth stores beside their numbers are properties."""

    note: int
    note_str: str
    instrument: int
    instrument_str: str
    pitch: int
    """MIDI, 0 to 127."""
    velocity: int
    """MIDI, 0 to 127."""
    sample_rate: int
    """Hz."""
    qualities: tuple[int, ...]
    """One 0 or 1 for each of QUALITIES."""
    instrument_family: int
    """Index into FAMILIES."""
    instrument_source: int
    """Index into SOURCES."""

    @property
    def qualities_str(self) -> list[str]:
        return [name for name, has in zip(QUALITIES, self.qualities, strict=True) if has]

    @property
    def instrument_family_str(self) -> str:
        return FAMILIES[self.instrument_family]

    @property
    def instrument_source_str(self) -> str:
        return SOURCES[self.instrument_source]

    def to_json(self) -> dict[str, Any]:
        """The entry of examples.json, with every key that NSynth has."""
        return vars(self) | {
            "qualities": list(self.qualities),
            "qualities_str": self.qualities_str,
            "instrument_family_str": self.instrument_family_str,
            "instrument_source_str": self.instrument_source_str,
        }

    @classmethod
    def from_json(cls, entry: Any) -> "Note":
        """The inverse of `to_json`; further keys are passed over. Raises ValueError naming the key at fault."""
        if not isinstance(entry, dict):
            raise ValueError(f"is {entry!r:.40}, must be an object")
        for name in NOTE_KEYS:
            if name not in entry:
                raise ValueError(f"has no {name!r}")
        for name, largest in LARGEST.items():
            if type(entry[name]) is not int or not 0 <= entry[name] <= largest:
                raise ValueError(f"{name} is {entry[name]!r:.40}, must be a whole number from 0 to {largest}")
        for name in ("note_str", "instrument_str"):
            if not isinstance(entry[name], str) or not is_utf8(entry[name]):
                raise ValueError(f"{name} is {entry[name]!r:.40}, must be text")
        # The name becomes a file's name: it must not lead out of audio/.
        if not entry["note_str"] or entry["note_str"].startswith(".") or set(entry["note_str"]) & set("/\\\0"):
            raise ValueError(f"note_str is {entry['note_str']!r:.40}, must be a file's name without slashes")
        flags = entry["qualities"]
        whole = type(flags) is list and all(type(flag) is int and flag in (0, 1) for flag in flags)
        if not whole or len(flags) != len(QUALITIES):
            raise ValueError(f"qualities is {flags!r:.40}, must be a list of {len(QUALITIES)} zeros and ones")
        note = cls(**{name: entry[name] for name in NOTE_KEYS} | {"qualities": tuple(flags)})
        for name in ("instrument_family_str", "instrument_source_str"):
            if (derived := getattr(note, name)) != entry.get(name, derived):
                number = entry[name.removesuffix("_str")]
                raise ValueError(f"{name} is {entry[name]!r:.40}, must be {derived!r}, which is number {number}")
        return note


def is_utf8(text: str) -> bool:
    """JSON may hold half of a character ("\\ud83d"), which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


NOTE_KEYS = tuple(field.name for field in fields(Note))


def notes_of(examples: bytes, name: str) -> list[Note]:
    """The notes of an examples.json, sorted by their names. Raises ValueError, naming the note and the key."""
    try:
        entries = json.loads(examples)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON ({error})") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{name}: holds {entries!r:.40}, must be an object of notes keyed by note_str")
    notes = []
    for key in sorted(entries):
        try:
            note = Note.from_json(entries[key])
            if note.note_str != key:
                raise ValueError(f"note_str is {note.note_str!r:.40}, must be the key it stands under")
        except ValueError as error:
            raise ValueError(f"{name}: note {key!r:.80} {error}") from error
        notes.append(note)
    return notes
