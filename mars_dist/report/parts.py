"""What a page is made of.

Suffixes: T samples, F frequency bins, N frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mars_dist.metrics.summary import Estimate

LINES = {
    "original": ("Original", "The note from the data set, untouched."),
    "real": (
        "Real",
        "The notes from the data set themselves: what a measure says of the real thing. "
        "Where two sets of notes are compared, one half of the real notes against the other half.",
    ),
    "griffin_lim": (
        "Resynthesis",
        "The original's own picture turned back into sound. A picture holds no phase, so the phase is estimated; "
        "this is the ceiling for every picture that is turned into sound in this way.",
    ),
    "reconstruction": (
        "Reconstruction",
        "The note squeezed by the tokenizer into a short list of codes and unpacked again: about the "
        "best that a sample made of such codes can be.",
    ),
    "sample": (
        "Sample",
        "A new note that the model made up, told of the original only what it can be asked for, such as its pitch.",
    ),
    "nearest_training_note": (
        "Nearest training note",
        "The training note most like each sample, turned into sound as the sample is: "
        "what a model would score that only remembers its training.",
    ),
}
"""Name of a line -> its heading and what it is, in plain words."""


@dataclass(frozen=True)
class Row:
    """A measure: one cell a line, None where the line has no such number."""

    metric: str
    split: str
    unit: str
    """The unit and which way is better, such as "dB, lower is better"."""
    formula: str
    cells: Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Rung:
    """One version of a note."""

    line: str
    wave_T: NDArray[np.floating]
    """In [-1, 1]."""
    picture_FN: NDArray[np.floating]
    """Normalised log magnitude: -1 silence, 1 a full-scale sine; the lowest frequency first, the last at Nyquist."""
    caption: str = ""


@dataclass(frozen=True)
class Ladder:
    """The same note, line by line."""

    title: str
    """Its id in the data set: the same in every report, so that pages can be compared note by note."""
    labels: Mapping[str, str]
    rungs: Sequence[Rung]


@dataclass(frozen=True)
class Grid:
    """New notes by family and pitch."""

    heading: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Rung | None]]
    """Name -> a note for each column, None where there is none."""


@dataclass(frozen=True)
class Curve:
    """Values over steps, one or several series in one picture."""

    title: str
    x_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """Name -> (steps, values)."""


@dataclass(frozen=True)
class ScaleUse:
    """How a scale uses the codebook, and how well its codes are foretold."""

    scale: str
    usage: float
    """Codes that occur, as a share of those that could (of the book, or of the codes counted), in [0, 1]."""
    perplexity: float
    """exp of the entropy of the codes: as if so many were used equally often."""
    cross_entropy: float | None = None
    """Nats a code, of the autoregressor on held-out notes."""


@dataclass(frozen=True)
class Model:
    """What the page tells of a run besides its notes."""

    name: str
    facts: Mapping[str, str]
    """What it was trained on and with."""
    curves: Sequence[Curve] = ()
    codebook: Sequence[ScaleUse] = ()
    codebook_size: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that the page shows; an empty part is left out."""

    title: str
    description: Sequence[str]
    sample_rate: int
    notice: str = ""
    """What a reader must know before any number, such as "rendered from a soundfont, not NSynth"."""
    grids: Sequence[Grid] = ()
    ladders: Sequence[Ladder] = ()
    table: Sequence[Row] = ()
    table_notes: Sequence[str] = ()
    """What the measures rest on, and what was left out."""
    models: Sequence[Model] = ()
    lines: Mapping[str, tuple[str, str]] = field(default_factory=lambda: LINES)
    """Headings and explanations; a line that is not in here goes by its own name."""

    def heading(self, line: str) -> str:
        return self.lines[line][0] if line in self.lines else line
