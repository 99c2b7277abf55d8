"""Reading notes strictly, writing and resampling them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from mars_dist.audio import read_note, resample, write_wav

RATE, LENGTH = 16_000, 400


def tone(length: int = LENGTH, frequency: float = 440, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency / rate * np.arange(length))).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "note.wav"
    write_wav(path, tone(), RATE)
    return path


@settings(max_examples=30, deadline=None)
@given(levels=arrays(np.int16, LENGTH))
def test_16_bit_levels_come_back_as_they_went(tmp_path_factory: pytest.TempPathFactory, levels: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("levels") / "note.wav"
    write_wav(path, levels / np.float32(2**15), RATE)
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], levels)
    wave_T = read_note(path.read_bytes(), RATE, LENGTH)
    assert wave_T.shape == (LENGTH,) and wave_T.dtype == np.float32
    assert np.array_equal(wave_T, levels / np.float32(2**15))


def test_written_notes_are_mono_16_bit_and_close(wav: Path) -> None:
    info = soundfile.info(wav)
    assert (info.channels, info.samplerate, info.subtype, info.format) == (1, RATE, "PCM_16", "WAV")
    assert np.abs(read_note(wav.read_bytes(), RATE, LENGTH) - tone()).max() <= 0.5 / 2**15


def test_what_is_too_loud_is_clipped_and_does_not_wrap_around(wav: Path) -> None:
    write_wav(wav, 4 * tone(), RATE)
    wave_T = read_note(wav.read_bytes(), RATE, LENGTH)
    assert wave_T.max() > 0.999 and np.all(wave_T * tone() >= 0)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT"])
def test_other_sample_formats_are_read(wav: Path, subtype: str) -> None:
    soundfile.write(wav, tone(), RATE, subtype=subtype)
    assert np.allclose(read_note(wav.read_bytes(), RATE, LENGTH), tone(), atol=1e-6)


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (np.stack([tone(), tone()], axis=1), RATE, "2 channels, must be 1"),
        (tone(), 44_100, "sample rate 44100 Hz, must be 16000 Hz"),
        (tone(0), RATE, "empty, must be 400 samples"),
        (tone(LENGTH - 1), RATE, "399 samples, must be 400"),
        (tone(LENGTH + 1), RATE, "401 samples, must be 400"),
        (tone() * np.where(np.arange(LENGTH) == 7, np.float32(np.nan), 1), RATE, "NaN or infinite"),
        (tone() + np.where(np.arange(LENGTH) == 7, np.float32(np.inf), 0), RATE, "NaN or infinite"),
        (tone() * np.float32(2**15), RATE, "up to .*, must lie between -1 and 1: scale it"),
    ],
    ids=["stereo", "rate", "empty", "short", "long", "nan", "inf", "levels"],
)
def test_a_note_unlike_the_setting_is_refused_by_name(wav: Path, wave: np.ndarray, rate: int, message: str) -> None:
    soundfile.write(wav, wave, rate, subtype="FLOAT")
    with pytest.raises(ValueError, match=message) as refusal:
        read_note(wav.read_bytes(), RATE, LENGTH)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kept", range(0, 44 + 2 * LENGTH, 13))
def test_a_file_cut_anywhere_is_refused(wav: Path, kept: int) -> None:
    wav.write_bytes(wav.read_bytes()[:kept])
    with pytest.raises(ValueError, match="truncated" if kept > 12 else "must be a RIFF/WAVE file"):
        read_note(wav.read_bytes(), RATE, LENGTH)


def test_a_header_that_promises_more_is_refused_though_the_length_is_right(wav: Path) -> None:
    content = bytearray(wav.read_bytes())
    content[40:44] = (4 * LENGTH).to_bytes(4, "little")
    wav.write_bytes(content)
    assert len(soundfile.read(wav)[0]) == LENGTH  # libsndfile says nothing
    with pytest.raises(ValueError, match=f"promises {4 * LENGTH} bytes of sound, {2 * LENGTH} are there"):
        read_note(wav.read_bytes(), RATE, LENGTH)


@pytest.mark.parametrize(
    "told",
    [0x7FFFF000, 0x7FFFF000 // 6 * 6, 0x80000000, 0xFFFFFFFF],
    ids=["sox", "sox, 24 bits and two channels", "arecord", "ffmpeg"],
)
def test_a_file_written_into_a_pipe_is_read(told: int, wav: Path) -> None:
    """Its header was written before anybody knew how long it would be."""
    content = bytearray(wav.read_bytes())
    expected = read_note(bytes(content), RATE, LENGTH)
    content[4:8] = content[40:44] = told.to_bytes(4, "little")
    np.testing.assert_array_equal(read_note(bytes(content), RATE, LENGTH), expected)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"RIFF\0\0\0\0WAVE" + b"data\4\0\0\0abcd"])
def test_what_is_no_wav_file_is_refused(wav: Path, content: bytes) -> None:
    wav.write_bytes(content)
    with pytest.raises(ValueError, match=r"(empty, must be|not a wav|not a readable file)"):
        read_note(wav.read_bytes(), RATE, LENGTH)


def test_chunks_before_the_sound_are_stepped_over(wav: Path) -> None:
    content = wav.read_bytes()
    before = read_note(wav.read_bytes(), RATE, LENGTH)
    wav.write_bytes(content[:36] + b"LIST\3\0\0\0abc\0" + content[36:])
    assert np.array_equal(read_note(wav.read_bytes(), RATE, LENGTH), before)


def test_resampling_keeps_what_the_lower_rate_can_hold_and_drops_the_rest() -> None:
    inner = slice(400, -400)  # the ends ring
    low_T = resample(tone(9600, 7000, 48_000), 48_000, RATE)
    assert low_T.shape == (3200,) and low_T.dtype == np.float32
    assert np.abs(low_T - tone(3200, 7000, RATE))[inner].max() < 1e-4
    assert np.abs(resample(tone(9600, 9000, 48_000), 48_000, RATE))[inner].max() < 1e-4
