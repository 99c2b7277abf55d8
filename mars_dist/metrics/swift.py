"""The pitch of a note by a small network, to check the detector without one by.

swift-f0 of PyPI (MIT): Nieradzik, "SwiftF0", arXiv 2508.18440, with the later network of its version 0.3. Suffixes: B
notes, T samples.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mars_dist.metrics.pitch import NO_PITCH, sustained

SAMPLE_RATE = 16_000
INSTALL = "pip install swift-f0==0.3.0"
CONFIDENT = 0.5
"""The confidence from which on swift-f0 calls a frame voiced."""


def detect_pitch_swift(wave_BT: Tensor, sample_rate: int) -> Tensor:
    """(B, T) in [-1, 1] at 16 kHz -> (B,) int64 on the wave's device: the nearest MIDI pitch, or NO_PITCH.

    It is the median over the confident frames of the part that metrics.pitch looks at; a note without such frames
    has none. Finds pitches 31 to 96. Raises ValueError for another rate, and where swift-f0 is not installed.
    """
    if sample_rate != SAMPLE_RATE:
        raise ValueError(f"swift-f0 takes {SAMPLE_RATE} Hz, the notes are at {sample_rate} Hz: resample them")
    detector = _detector()
    pitches = []
    for wave_T in sustained(wave_BT, sample_rate).float().cpu().numpy():
        result = detector.detect(wave_T, sample_rate)
        hertz = result.pitch_hz[result.confidence >= CONFIDENT]
        pitches.append(round(69 + 12 * np.log2(np.median(hertz) / 440)) if len(hertz) else NO_PITCH)
    return torch.tensor(pitches, dtype=torch.int64, device=wave_BT.device)


@lru_cache
def _detector() -> Any:
    try:
        from swift_f0 import SwiftF0
    except ImportError as error:
        raise ValueError(f"swift-f0 is not installed: {INSTALL}") from error
    return SwiftF0(threads=torch.get_num_threads())
