"""Sweep files: those that are shipped, and what a user can get wrong in one's own."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from mars_dist.presets import TINY
from mars_dist.scales import Size
from mars_dist.sweeps import Sweep, choices
from mars_dist.sweeps.sweep import load_sweep

SHIPPED = sorted((Path(__file__).parents[2] / "tune").glob("*.py"))
CODES = {"codes": choices("tokenizer.tokenizer.codebook_size", 64, 128)}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_sweep_offers_settings_that_differ(file: Path) -> None:
    sweep = load_sweep(str(file))
    grid = sweep.grid()
    presets = [sweep.preset_of(choice) for choice in grid]
    assert len(grid) > 2 and all(preset not in presets[:i] for i, preset in enumerate(presets))


def test_a_choice_may_change_several_settings() -> None:
    shape = {"tokenizer.tokenizer.patch": Size(4, 4), "tokenizer.tokenizer.scales": (Size(1, 1), Size(8, 8))}
    sweep = Sweep("tokenizer", {"shape": {"square": shape, "own": {}}} | CODES, settings={"tokenizer.optim.lr": 0.5})
    assert sweep.grid()[0] == {"shape": "square", "codes": "64"} and len(sweep.grid()) == 4
    made = sweep.preset_of({"shape": "square", "codes": "128"}).tokenizer
    assert (made.tokenizer.patch, made.tokenizer.scales) == (Size(4, 4), (Size(1, 1), Size(8, 8)))
    assert (made.tokenizer.codebook_size, made.optim.lr, made.optim.clip) == (128, 0.5, TINY.tokenizer.optim.clip)
    assert (
        sweep.preset_of({"shape": "own", "codes": "64"}).tokenizer.tokenizer.scales == TINY.tokenizer.tokenizer.scales
    )


def test_seeds_may_be_a_range_or_a_list() -> None:
    assert list(Sweep("tokenizer", CODES, seeds=range(3)).seeds) == [0, 1, 2]  # type: ignore[arg-type]
    assert Sweep("tokenizer", CODES, seeds=[0, 1]).seeds == [0, 1]  # type: ignore[arg-type]


def test_values_go_by_what_they_are_or_by_a_name() -> None:
    assert choices("a.b", 3, Size(2, 1), (Size(1, 1), Size(2, 2)), one_half=0.5) == {
        "3": {"a.b": 3},
        "2x1": {"a.b": Size(2, 1)},
        "1x1 2x2": {"a.b": (Size(1, 1), Size(2, 2))},
        "one half": {"a.b": 0.5},
    }


@pytest.mark.parametrize(
    "arguments, line",
    [
        ({"kind": "tokeniser"}, "kind: 'tokeniser' is none: choose tokenizer, autoregressor, both"),
        ({"space": {}}, "space: there is nothing to choose: name choices"),
        ({"space": {"codes": {}}}, "space: there is nothing to choose for codes: name choices"),
        (
            {"space": {"codes": {64: {"tokenizer.tokenizer.codebook_size": 64}}}},
            "space: codes: 64 is no name: write it in quotes, or take choices(SETTING, VALUE, ...)",
        ),
        ({"space": {"rate": [1e-3, 2e-3]}}, "space: rate: 0.001 is no name: write it in quotes, or take choices("),
        (
            {"space": {"latents": ["aligned", "free"]}},
            "space: latents: 'aligned' names no setting: write {SETTING",
        ),
        ({"space": {"rate": {"high": 0.5}}}, "space: rate: 'high' names no setting: write {SETTING: VALUE} for it, or"),
        (
            {"space": {str(i): choices("tokenizer.optim.lr", *range(1, 11)) for i in range(5)}},
            "space: 100000 settings are more than 10000: offer fewer choices",
        ),
        (
            {"space": {"schedule": choices("tokenizer.tokenizer.scales", (Size(2, 2), Size(4, 4)))}},
            "space: schedule: 2x2 4x4: scales: the first scale is 2x2, it must be 1x1: put 1x1 in front",
        ),
        (
            {"space": {"codes": choices("tokenizer.tokenizer.codebok_size", 64)}},
            "space: codes: 64: tokenizer.tokenizer.codebok_size: unknown setting: did you mean "
            "tokenizer.tokenizer.codebook_size?",
        ),
        (
            {"space": {"rate": {"high": {"tokenizer.optim": {"lr": 0.5}}}}},
            "space: rate: high: tokenizer.optim: is a table: name each of its settings, such as tokenizer.optim.lr",
        ),
        (
            {"metrics": ("usage",)},
            "metrics: no trial of kind tokenizer reports 'usage': choose from mse_reconstruction, mae_reconstruction, "
            "log_spectral_distance_reconstruction, multi_resolution_stft_reconstruction, mel_distance_reconstruction, "
            "pitch_accuracy_reconstruction",
        ),
        (
            {"metrics": ("pitch_accuracy_reconstruction",), "stop_early": True},
            "stop_early: pitch_accuracy_reconstruction is measured at the end alone: leave it out, or rank by "
            "mse_reconstruction, mae_reconstruction",
        ),
        ({"seeds": (1, 1)}, "seeds: (1, 1) must be one or more that differ"),
        ({"seeds": 3}, "seeds: 3 is not tuple"),
        ({"seeds": {0, 1}}, "seeds: {0, 1} is not tuple"),
        ({"seeds": ("a", "b")}, "seeds: 'a' is not int"),
        ({"seeds": (0.5,)}, "seeds: 0.5 is not int"),
        ({"metrics": "mse_reconstruction"}, "metrics: 'mse_reconstruction' is not tuple"),
        ({"stop_early": "no"}, "stop_early: 'no' is not bool"),
        ({"preset": TINY}, "preset: Preset(tokenizer=TokenizerRunConfig("),
        ({"flops": "1e12"}, "flops: '1e12' is not float"),
        ({"flops": inf}, "flops: inf must be above 0, and finite"),
        ({"seconds": 0}, "seconds: 0 must be above 0"),
        (
            {"seconds": 1, "flops": 1},
            "flops, seconds: both are given, trials are compared at one: leave one of them out",
        ),
        ({"preset": "tyni"}, "space: codes: 64: tyni: there is no such preset"),
    ],
)
def test_a_mistake_is_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as raised:
        Sweep(**{"kind": "tokenizer", "space": CODES} | arguments)
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize(
    "text, line",
    [
        ("SWEEP = 1", "defines no SWEEP = Sweep(...)"),
        ("x =", "cannot be run: SyntaxError: invalid syntax"),
        ("1 / 0", "cannot be run: ZeroDivisionError: division by zero"),
        ("from mars_dist.sweeps import Sweep\nSWEEP = Sweep('both', {})", "space: there is nothing to choose"),
    ],
)
def test_a_file_that_is_no_sweep(text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    with pytest.raises(ValueError, match=r"there is no such file: name one such as tune/scale_schedules\.py"):
        load_sweep(str(file))
    file.write_text(text)
    with pytest.raises(ValueError) as raised:
        load_sweep(str(file))
    assert str(raised.value).startswith(f"{file}: {line}")
