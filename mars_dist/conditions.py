"""What a note can be asked for: pitch, velocity, family, source and, where it was trained on, the instrument."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.nsynth import FAMILIES, SOURCES, VELOCITIES

UNASKED = -1


@dataclass(frozen=True)
class Vocabulary:
    """The conditions of an autoregressor and the values that each can take."""

    instruments: tuple[str, ...] = ()
    """Those of the training split; empty where the instrument is not a condition."""

    @property
    def cardinalities(self) -> dict[str, int]:
        fixed = {"pitch": 128, "velocity": len(VELOCITIES), "family": len(FAMILIES), "source": len(SOURCES)}
        return fixed | ({"instrument": len(self.instruments)} if self.instruments else {})

    def of_rows(self, columns: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
        """Conditions (B,) of a data set's rows; an instrument that training did not see is not asked for."""
        velocities = np.abs(np.subtract.outer(columns["velocity"].astype(int), VELOCITIES)).argmin(-1)
        conditions = {name: columns[name].astype(np.int64) for name in ("pitch", "family", "source")}
        conditions["velocity"] = velocities
        if self.instruments:
            known = {name: i for i, name in enumerate(self.instruments)}
            conditions["instrument"] = np.array([known.get(str(name), UNASKED) for name in columns["instrument_str"]])
        return {name: torch.from_numpy(values) for name, values in conditions.items()}

    def of_words(self, count: int, **asked: int | str | None) -> dict[str, Tensor]:
        """The same conditions for `count` notes, from a pitch number, a velocity, and names; None: not asked for.

        Raises ValueError for what the model does not know.
        """
        values = {name: self._index(name, value) for name, value in asked.items()}
        values = {name: UNASKED for name in self.cardinalities} | values
        return {name: torch.full((count,), values[name]) for name in self.cardinalities}

    def _index(self, name: str, value: int | str | None) -> int:
        names: dict[str, Sequence[str]] = {
            "family": FAMILIES,
            "source": SOURCES,
            "instrument": self.instruments,
        }
        if value is None:
            return UNASKED
        if name in names:
            if name == "instrument" and not self.instruments:
                raise ValueError(f"instrument: {value!r}: this model was not conditioned on instruments: leave it out")
            if value not in names[name]:
                raise ValueError(f"{name}: {value!r} is unknown to this model: choose from {', '.join(names[name])}")
            return names[name].index(str(value))
        number = int(value)
        if name == "velocity":
            return int(np.abs(np.subtract(VELOCITIES, number)).argmin())
        if not 0 <= number < 128:
            raise ValueError(f"{name}: {number} is no MIDI number: choose 0 to 127")
        return number
