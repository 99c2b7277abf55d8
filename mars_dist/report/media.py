"""Sounds and pictures within the page, as data URIs.

Suffixes: T samples, F frequency bins, N frames.
"""

import base64
import io
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import soundfile
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from mars_dist.audio import levels

Codec = Literal["flac", "ogg"]
"""Lossless, or Ogg Vorbis at a third of the size."""
PICTURE_WIDTH, PICTURE_HEIGHT = 256, 160
COLOURS = 64


def mel(hertz: float | NDArray[np.floating]) -> Any:
    """Up to a factor."""
    return np.log10(1 + np.asarray(hertz) / 700)


def png(picture_FN: NDArray[np.floating], sample_rate: int, width: int = PICTURE_WIDTH) -> str:
    """The picture, in [-1, 1], as a PNG."""
    drawn = image(picture_FN, sample_rate, width)
    return data_uri("image/png", lambda file: drawn.save(file, format="PNG", optimize=True))


def image(picture_FN: NDArray[np.floating], sample_rate: int, width: int = PICTURE_WIDTH) -> Image.Image:
    """The picture, in [-1, 1]: mel-spaced, low frequencies at the bottom, magma."""
    num_bins, num_frames = picture_FN.shape
    height = PICTURE_HEIGHT * width // PICTURE_WIDTH
    edge_hertz = 700 * (10 ** np.linspace(mel(sample_rate / 2), 0, height + 1) - 1)
    edges = edge_hertz / (sample_rate / 2) * num_bins
    # A row shows the loudest bin that it spans, so that no harmonic falls between two rows.
    rows = [
        picture_FN[min(int(low), num_bins - 1) : max(int(low) + 1, math.ceil(high))].max(0)
        for high, low in pairwise(edges)
    ]
    columns = np.linspace(0, num_frames - 1, width).round().astype(int)
    level = (np.clip(np.stack(rows)[:, columns], -1, 1) + 1) / 2
    drawn = Image.fromarray((level * (COLOURS - 1)).round().astype(np.uint8), mode="P")
    drawn.putpalette((colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3] * 255).astype(np.uint8).tobytes())
    return drawn


def sound(wave_T: NDArray[np.floating], sample_rate: int, codec: Codec) -> str:
    """The waveform, in [-1, 1], at 16 bits."""
    samples_T = levels(wave_T)

    def save(file: io.BytesIO) -> None:
        with soundfile.SoundFile(file, "w", sample_rate, 1, format=codec.upper()) as sink:
            for start in range(0, len(samples_T), 2**16):  # of some millions at once libsndfile's Vorbis dies
                sink.write(samples_T[start : start + 2**16])

    return data_uri(f"audio/{codec}", save)


def data_uri(media_type: str, save: Callable[[io.BytesIO], object]) -> str:
    file = io.BytesIO()
    save(file)
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"
