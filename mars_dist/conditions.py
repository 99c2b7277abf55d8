"""What a note can be asked for: pitch, velocity, family, source and, where trained on, the instrument and qualities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.nsynth import FAMILIES, QUALITIES, SOURCES, VELOCITIES

WORDS = ("pitch", "velocity", "family", "source", "instrument", "qualities")
"""What a note is asked for by."""
UNASKED = -1
QUALITY_CONDITIONS = {name: f"quality_{name}" for name in QUALITIES}
"""Each quality is a condition of its own: 0 absent, 1 present."""


@dataclass(frozen=True)
class Vocabulary:
    """The conditions of an autoregressor and the values that each can take."""

    instruments: tuple[str, ...] = ()
    """Those of the training split; empty where the instrument is not a condition."""
    qualities: bool = False
    """Whether qualities are conditions."""

    @property
    def choices(self) -> dict[str, Sequence[int | str]]:
        """The values of each condition, in the order of their indices."""
        choices: dict[str, Sequence[int | str]] = {
            "pitch": range(128),
            "velocity": VELOCITIES,
            "family": FAMILIES,
            "source": SOURCES,
        }
        if self.instruments:
            choices["instrument"] = self.instruments
        if self.qualities:
            choices |= {condition: (0, 1) for condition in QUALITY_CONDITIONS.values()}
        return choices

    @property
    def cardinalities(self) -> dict[str, int]:
        return {name: len(values) for name, values in self.choices.items()}

    def of_rows(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Conditions (B,) of a data set's rows; an instrument that training did not see is not asked for."""
        conditions = {name: columns[name].astype(np.int64) for name in ("pitch", "family", "source")}
        conditions["velocity"] = nearest_velocity(columns["velocity"])
        if self.instruments:
            known = {name: i for i, name in enumerate(self.instruments)}
            conditions["instrument"] = np.array([known.get(str(name), UNASKED) for name in columns["instrument_str"]])
        if self.qualities:
            flags_QB = columns["qualities"].T.astype(np.int64)
            conditions |= dict(zip(QUALITY_CONDITIONS.values(), flags_QB, strict=True))
        return {name: torch.from_numpy(values) for name, values in conditions.items()}

    def of_words(self, count: int, qualities: Sequence[str] = (), **asked: int | str | None) -> dict[str, Tensor]:
        """The same conditions for `count` notes, from a pitch number, a velocity, and names; None: not asked for.

        `qualities` are asked to be present. Raises ValueError for what the model does not know, and for no notes.
        """
        if count < 1:
            raise ValueError(f"count: {count} must be at least 1")
        names = qualities.split() if isinstance(qualities, str) else qualities  # else: its letters
        values = dict.fromkeys(self.cardinalities, UNASKED)
        values |= {name: self._index(name, value) for name, value in asked.items() if value is not None}
        values |= {self._quality(name): 1 for name in names}
        return {name: torch.full((count,), value) for name, value in values.items()}

    def to_words(self, conditions: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """What each of B notes is asked for, in the words of `of_words`; None: not asked for."""
        notes: list[dict[str, Any]] = []
        for i in range(len(conditions["pitch"])):
            found = {
                name: None if conditions[name][i] < 0 else values[int(conditions[name][i])]
                for name, values in self.choices.items()
            }
            present = [name for name, condition in QUALITY_CONDITIONS.items() if found.pop(condition, 0) == 1]
            notes.append(found | ({"qualities": present} if self.qualities else {}))
        return notes

    def _index(self, name: str, value: int | str) -> int:
        if name in ("pitch", "velocity") and isinstance(value, str) and value.isdecimal():
            value = int(value)  # as a table is read
        if name == "pitch":
            if value not in range(128):
                raise ValueError(f"pitch: {value} is no MIDI number: choose 0 to 127")
            return int(value)
        if name == "velocity":
            if value not in range(1, 128):
                raise ValueError(f"velocity: {value} is no MIDI velocity: choose 1 to 127")
            return int(nearest_velocity(np.array([value]))[0])
        if name not in self.choices:
            raise ValueError(f"{name}: {value!r}: this model was not conditioned on {name}s: leave it out")
        names = self.choices[name]
        if value not in names:
            raise ValueError(f"{name}: {value!r} is unknown to this model: choose from {', '.join(map(str, names))}")
        return names.index(value)

    def _quality(self, name: str) -> str:
        if not self.qualities:
            raise ValueError(f"qualities: {name!r}: this model was not conditioned on qualities: leave them out")
        if name not in QUALITY_CONDITIONS:
            raise ValueError(f"qualities: {name!r} is unknown to this model: choose from {', '.join(QUALITIES)}")
        return QUALITY_CONDITIONS[name]


def nearest_velocity(velocity_B: NDArray[Any]) -> NDArray[np.int64]:
    """The index of the nearest of VELOCITIES."""
    return np.abs(np.subtract.outer(velocity_B.astype(int), VELOCITIES)).argmin(-1)
