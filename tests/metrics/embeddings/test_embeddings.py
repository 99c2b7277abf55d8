"""Which embedding a name stands for, and what is refused."""

import sys
from pathlib import Path

import pytest

from mars_dist.metrics.embeddings import load_embedding


@pytest.mark.parametrize("spec", ["clap", "", "musicnn:weights.pth", "VGGish:weights.pth"])
def test_an_unknown_name_is_refused_with_the_choice(spec: str) -> None:
    with pytest.raises(ValueError, match=rf"^embedding: '{spec}' is unknown: choose musicnn or vggish:PATH$"):
        load_embedding(spec, 16_000)


@pytest.mark.parametrize("spec", ["vggish", "vggish:"])
def test_vggish_asks_for_its_weights(spec: str) -> None:
    with pytest.raises(ValueError, match=rf"^embedding: '{spec}' names no weights.*: write vggish:PATH$"):
        load_embedding(spec, 16_000)


@pytest.mark.parametrize("spec", ["musicnn", "vggish:weights.pth"])
def test_another_rate_is_refused(spec: str) -> None:
    name = spec.partition(":")[0]
    with pytest.raises(ValueError, match=rf"^embedding: {name} takes 16000 Hz, the notes are at 22050 Hz: resample"):
        load_embedding(spec, 22_050)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.pth: there is no such file"):
        load_embedding(f"vggish:{tmp_path / 'gone.pth'}", 16_000)


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "musicnn", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"musicnn is not installed: pip install --no-deps musicnn==0\.1\.0$"):
        load_embedding("musicnn", 16_000)
