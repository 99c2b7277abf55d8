"""MARS: next-scale autoregression on multi-channel spectrograms, as a training system on Ray."""

import platform
import sys
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 11):  # noqa: UP036  # a cluster's own Python runs what was uploaded: no installer looks there
    print(f"mars: Python {platform.python_version()} is too old: 3.11 or later is needed on each node", file=sys.stderr)
    sys.exit(2)

__version__ = "0.1.0"
__all__ = ["Mars", "SamplingConfig"]

if TYPE_CHECKING:
    from mars_dist.model import Mars
    from mars_dist.sampling import SamplingConfig


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: `mars --help` shall not wait for torch."""
    if name == "Mars":
        from mars_dist.model import Mars

        return Mars
    if name == "SamplingConfig":
        from mars_dist.sampling import SamplingConfig

        return SamplingConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
