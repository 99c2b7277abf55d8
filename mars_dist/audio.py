"""Wav files <-> waveforms. Suffixes: T samples, C channels.

Imports torch only to resample, so that whoever reads and writes files starts at once.
"""

import io
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Wave = NDArray[np.float32]
ZERO_CROSSINGS = 64
"""Of the resampler's window, to each side."""
LARGEST_RATIO = 1000
"""Of two rates, in lowest terms: the resampler's window grows with it."""
LOUDEST = 100
"""Samples of floating point may exceed 1 a little; what goes this far is of another scale, such as 16-bit levels."""
UNTOLD = 0x7FFF0000
"""Bytes of sound, where a program wrote into a pipe and did not know: sox says 0x7FFFF000 or, of 24 bits, the frames
that fit into them; arecord and ffmpeg say more."""
CHUNKED = {
    (b"RIFF", b"WAVE"): ("<", b"data"),
    (b"FORM", b"AIFF"): (">", b"SSND"),
    (b"FORM", b"AIFC"): (">", b"SSND"),
}
"""How wav and aiff files begin -> the order of a number's bytes in them, and the chunk that holds the sound."""


def read_note(content: bytes, sample_rate: int, num_samples: int) -> Wave:
    """(T,) in [-1, 1]: the note in a mono wav file of that rate (Hz) and that length, to the sample.

    Nothing is mended in silence: raises ValueError, with what was found and the rule, for a file that is unreadable,
    shorter than its header promises, not mono, of another rate or length, not finite or far beyond full scale.
    """
    require_wav(content)
    require_whole(content)
    with _opened(content) as file:
        rate, channels, wave_TC = file.samplerate, file.channels, file.read(dtype="float32", always_2d=True)
    if channels != 1:
        raise ValueError(f"{channels} channels, must be 1: mix it to mono")
    if rate != sample_rate:
        raise ValueError(f"sample rate {rate} Hz, must be {sample_rate} Hz: resample it")
    if len(wave_TC) != num_samples:
        found = f"{len(wave_TC)} samples" if len(wave_TC) else "empty"
        raise ValueError(f"{found}, must be {num_samples} samples: cut it or fill it up with silence")
    require_levels(wave_TC)
    return wave_TC[:, 0]


def convert_note(content: bytes, sample_rate: int, num_samples: int) -> Wave:
    """(T,) in [-1, 1]: the note in a file of any format that libsndfile reads, of any rate, length and channels.

    Channels are averaged, another rate is resampled, what is longer is cut at its end, what is shorter is filled up
    with silence. Raises ValueError for what is unreadable, truncated, empty, not finite or far beyond full scale, and
    for odd rates.
    """
    require_whole(content)
    with _opened(content) as file:
        rate = file.samplerate
        if max(rate, sample_rate) // math.gcd(rate, sample_rate) > LARGEST_RATIO:
            raise ValueError(f"sample rate {rate} Hz has no simple ratio to {sample_rate} Hz: resample it")
        # What comes after the cut is heard by the resampler's window alone.
        num_read = math.ceil(num_samples * rate / sample_rate) + 2 * ZERO_CROSSINGS * max(1, rate // sample_rate)
        wave_TC = file.read(num_read, dtype="float32", always_2d=True)
    if not len(wave_TC):
        raise ValueError("empty, must hold sound")
    require_levels(wave_TC)
    wave_T = resample(wave_TC.mean(1), rate, sample_rate) if rate != sample_rate else wave_TC.mean(1)
    return np.pad(wave_T[:num_samples], (0, max(0, num_samples - len(wave_T))))


class _Content(io.BytesIO):
    """A damaged file may send libsndfile to before its beginning, where Python would print a traceback and go on."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(max(0, start + offset))


@contextmanager
def _opened(content: bytes) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(_Content(content)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(f"not a readable file of sound ({error.error_string})") from error


def require_levels(wave_TC: Wave) -> None:
    if not np.isfinite(wave_TC).all():
        raise ValueError("holds NaN or infinite samples, all must be finite")
    if (peak := np.abs(wave_TC).max(initial=0)) > LOUDEST:
        raise ValueError(f"holds samples of up to {peak:g}, must lie between -1 and 1: scale it")


def require_wav(content: bytes) -> None:
    if (content[:4], content[8:12]) != (b"RIFF", b"WAVE"):
        raise ValueError(f"{'not a wav file' if content else 'empty'}, must be a RIFF/WAVE file")


def require_whole(content: bytes) -> None:
    """Raises ValueError for a wav, aiff or ogg file that holds less than it promises; libsndfile reads such ones
    unasked. (Of flac it tells; an mp3 may not say how long it is.)"""
    if content[:4] == b"OggS":
        page = content[content.rfind(b"OggS") :]  # the last one: 27 bytes, a size for each of its segments, and these
        if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            raise ValueError("truncated: its last page ends early: copy it again")
    if (content[:4], content[8:12]) not in CHUNKED:
        return
    order, sound = CHUNKED[content[:4], content[8:12]]
    start = 12
    while start + 8 <= len(content):
        name, size = struct.unpack_from(f"{order}4sI", content, start)
        start += 8
        if name == sound:
            if size >= UNTOLD:
                return
            if (present := len(content) - start) < size:
                raise ValueError(
                    f"truncated: its header promises {size} bytes of sound, {present} are there: copy it again"
                )
            return
        start += size + size % 2
    raise ValueError("truncated: it has a header and no sound: copy it again")


def write_wav(path: str | os.PathLike[str], wave_T: Wave, sample_rate: int) -> None:
    """Write (T,) in [-1, 1] as a mono 16-bit wav file; what lies beyond is clipped."""
    Path(path).write_bytes(wav_bytes(wave_T, sample_rate))


def wav_bytes(wave_T: Wave, sample_rate: int) -> bytes:
    """The contents of such a file."""
    content = io.BytesIO()
    soundfile.write(content, levels(wave_T), sample_rate, subtype="PCM_16", format="WAV")
    return content.getvalue()


def levels(wave: NDArray[np.floating]) -> NDArray[np.int16]:
    """[-1, 1] -> 16 bits, to the nearest: libsndfile would round down, and so shift every note by half a level."""
    return np.clip(np.round(wave * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def resample(wave_T: Wave, from_rate: int, to_rate: int) -> Wave:
    """(T,) at from_rate Hz -> (T * to_rate / from_rate,): a Kaiser-windowed sinc, 64 zero crossings to each side."""
    import torch
    from torchaudio.functional import resample

    resampled_T = resample(
        torch.from_numpy(wave_T),
        from_rate,
        to_rate,
        lowpass_filter_width=ZERO_CROSSINGS,
        rolloff=0.9476,
        resampling_method="sinc_interp_kaiser",
        beta=14.77,
    )
    return resampled_T.numpy()
