"""Wav files <-> waveforms. Suffix: T samples.

Imports torch only to resample, so that whoever reads and writes files starts at once.
"""

import io
import os
import struct
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Wave = NDArray[np.float32]


def read_note(path: str | os.PathLike[str], sample_rate: int, num_samples: int) -> Wave:
    """(T,) in [-1, 1]: the note in a mono wav file of that rate (Hz) and that length, to the sample.

    Nothing is mended in silence: raises ValueError, naming the file, what was found and the rule, for a file that is
    missing, unreadable, shorter than its header promises, not mono, of another rate or length, or not finite.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    promised, present = _data_bytes(path, content)
    if promised > present:
        raise ValueError(
            f"{path}: truncated: its header promises {promised} bytes of sound, {present} are there: copy it again"
        )
    try:
        wave_TC, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable wav file ({error.error_string})") from error
    length, channels = wave_TC.shape
    if channels != 1:
        raise ValueError(f"{path}: {channels} channels, must be 1: mix it to mono")
    if rate != sample_rate:
        raise ValueError(f"{path}: sample rate {rate} Hz, must be {sample_rate} Hz: resample it")
    if length != num_samples:
        found = f"{length} samples" if length else "empty"
        raise ValueError(f"{path}: {found}, must be {num_samples} samples: cut it or fill it up with silence")
    if not np.isfinite(wave_TC).all():
        raise ValueError(f"{path}: holds NaN or infinite samples, all must be finite")
    return wave_TC[:, 0]


def _data_bytes(path: Path, content: bytes) -> tuple[int, int]:
    """Bytes of sound that a wav file's header promises, and those that follow it; libsndfile reads fewer unasked."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError(f"{path}: {'not a wav file' if content else 'empty'}, must be a RIFF/WAVE file")
    start = 12
    while start + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, start)
        start += 8
        if name == b"data":
            return size, len(content) - start
        start += size + size % 2
    raise ValueError(f"{path}: truncated: it has a header and no sound: copy it again")


def write_wav(path: str | os.PathLike[str], wave_T: Wave, sample_rate: int) -> None:
    """Write (T,) in [-1, 1] as a mono 16-bit wav file; what lies beyond is clipped."""
    # libsndfile would round down, and so shift every note by half a level.
    levels_T = np.clip(np.round(wave_T * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    soundfile.write(path, levels_T, sample_rate, subtype="PCM_16", format="WAV")


def resample(wave_T: Wave, from_rate: int, to_rate: int) -> Wave:
    """(T,) at from_rate Hz -> (T * to_rate / from_rate,): a Kaiser-windowed sinc, 64 zero crossings to each side."""
    import torch
    from torchaudio.functional import resample

    resampled_T = resample(
        torch.from_numpy(wave_T),
        from_rate,
        to_rate,
        lowpass_filter_width=64,
        rolloff=0.9476,
        resampling_method="sinc_interp_kaiser",
        beta=14.77,
    )
    return resampled_T.numpy()
