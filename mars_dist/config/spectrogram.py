"""From sound to pictures."""

from dataclasses import dataclass

from mars_dist.scales import Size


@dataclass(frozen=True)
class SpectrogramConfig:
    """How a waveform becomes a picture."""

    sample_rate: int = 16_000
    """Hz."""
    num_samples: int = 64_000
    """Length of a note in samples."""
    n_fft: int = 1024
    """Window and transform length of the STFT, in samples."""
    hop: int = 250
    """Samples between two frames."""
    cmx: Size = Size(16, 8)
    """Channel multiplexing factors, frequency x time."""

    def __post_init__(self) -> None:
        if self.n_fft < 16 or self.n_fft % 2:
            raise ValueError(f"spectrogram.n_fft: {self.n_fft} must be even and at least 16")
        if not 0 < self.hop < self.n_fft:
            raise ValueError(
                f"spectrogram.hop: {self.hop} must lie between 1 and {self.n_fft - 1}: n_fft or more leaves gaps"
            )
        if self.num_samples <= self.n_fft // 2:
            raise ValueError(
                f"spectrogram.num_samples: {self.num_samples} must be more than half of n_fft = {self.n_fft}, by which "
                "a note is mirrored at its ends"
            )
        if self.sample_rate < 1:
            raise ValueError(f"spectrogram.sample_rate: {self.sample_rate} must be above 0")
        if self.num_samples % self.hop:
            raise ValueError(
                f"spectrogram.hop: {self.hop} does not divide num_samples = {self.num_samples}: choose a hop that does"
            )
        if self.num_bins % self.cmx.h or self.num_frames % self.cmx.w:
            raise ValueError(
                f"spectrogram.cmx: {self.cmx} does not divide the {self.num_bins}x{self.num_frames} spectrogram: "
                "choose factors that divide it"
            )

    @property
    def num_bins(self) -> int:
        """F: the Nyquist bin is dropped."""
        return self.n_fft // 2

    @property
    def num_frames(self) -> int:
        """N: the last frame is dropped."""
        return self.num_samples // self.hop

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after CMX."""
        return self.cmx.area, self.num_bins // self.cmx.h, self.num_frames // self.cmx.w
