"""MARS: next-scale autoregression on multi-channel spectrograms, as a training system on Ray."""

__version__ = "0.1.0"
