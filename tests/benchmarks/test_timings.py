"""The benchmarks of speed: that contestants are timed in turns, and that what is told of them is what was found."""

import json
import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gains
import gpu
import growth
import pytest
import sampling
import torch
from side_by_side import Call, Table, Times, exponent, parser_of, product, take_turns, tell

from mars_dist import autoregressor
from mars_dist.autoregressor import Autoregressor
from mars_dist.costs import teacher_forcing
from mars_dist.layers import KeyValueCache
from mars_dist.memory import MALLOC_CONF
from mars_dist.presets import BASE
from mars_dist.sampling import keep_likely


def test_contestants_are_timed_and_their_memory_is_known() -> None:
    found = take_turns(
        {"a": partial(product, torch.float32), "b": partial(product, torch.float32)}, rounds=3, threads=1
    )
    assert list(found) == ["a", "b"]
    for times in found.values():
        assert len(times.seconds) == 3 and min(times.seconds) > 0
        assert times.peak_bytes >= 3 * 4 * 2048**2  # two factors and their product


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    """Noise that meets both in a round counts for nothing."""
    ours, theirs = Times([1.0, 10.0, 2.0]), Times([2.0, 20.0, 2.0])
    assert ours.over(theirs) == 0.5 and ours.median == 2.0


def test_the_same_figures_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("Steps", "2 threads", ["", "step"], [["ours", "0.5 s"]])
    tell(Namespace(json=tmp_path / "found.json"), table, table)
    assert "| ours | 0.5 s |" in capsys.readouterr().out
    written = json.loads((tmp_path / "found.json").read_text())
    assert [str(Table(**one)) for one in written["tables"]] == [str(table)] * 2 and "torch" in written["machine"]


def test_exponents() -> None:
    assert exponent([1, 2, 4], [5, 20, 80]) == pytest.approx(2)
    assert exponent([1, 10], [3, 30]) == pytest.approx(1)
    assert [sum(side * side for side in growth.square(num)) for num in (170, 680)] == [pytest.approx(170, rel=0.1), 680]


def test_plain_sampling_draws_what_ours_may_draw() -> None:
    logits_BkV = 3 * torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0))
    likely_BkM, codes_BkM = keep_likely(logits_BkV, sampling.SAMPLING.top_k, sampling.SAMPLING.top_p)
    torch.manual_seed(0)
    drawn = torch.stack([sampling.plain_draw(logits_BkV) for _ in range(300)])
    for b in range(2):
        for i in range(3):
            kept = set(codes_BkM[b, i, likely_BkM[b, i].isfinite()].tolist())
            found = set(drawn[:, b, i].tolist())
            assert found <= kept and len(found) > len(kept) / 4


def test_too_few_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_of("").parse_args(["--rounds", "4"])
    assert "4 must be a whole number, at least 5" in capsys.readouterr().err


def test_utilisation_counts_pairs_of_tokens_that_see_each_other_once() -> None:
    """Of `base`: scores and their sums of values, two FLOPs a multiplication and addition."""
    settings, tokenizer = BASE.autoregressor.autoregressor, BASE.tokenizer.tokenizer
    pairs = sum(size.area * end for size, end in zip(tokenizer.schedule.sizes, tokenizer.schedule.ends, strict=True))
    _, forward = teacher_forcing(BASE.autoregressor, tokenizer)
    attention = settings.depth * 2 * 2 * pairs * settings.width
    assert gpu.training_flops("base", "autoregressor") == pytest.approx(3 * (forward.layers + attention))


def test_sampling_ends_in_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed without a GPU is what is timed with one."""
    sounds, make = list[torch.Tensor](), gpu.wave_from_picture

    def kept(*given: Any) -> torch.Tensor:
        sounds.append(make(*given))
        return sounds[-1]

    monkeypatch.setattr(gpu, "wave_from_picture", kept)
    gpu.sampling("debug", 2, with_phase=True)()
    [wave_BT] = sounds
    assert len(wave_BT) == 2 and wave_BT.isfinite().all()


def tell_allocator(file: Path) -> Call:
    file.write_text(f"{'libjemalloc.so' in Path('/proc/self/maps').read_text()} {os.environ['MALLOC_CONF']}")
    return lambda: None


def test_only_ours_begins_with_our_allocator(tmp_path: Path) -> None:
    set_ups = {name: partial(tell_allocator, tmp_path / name) for name in ("ours", "plain VAR")}
    take_turns(set_ups, rounds=1, threads=1, as_found=["plain VAR"])
    assert [(tmp_path / name).read_text() for name in set_ups] == [f"True {MALLOC_CONF}", "False "]


def test_what_is_done_faster_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gain and without it: codes of a sample and of notes, and what codes take in nats."""
    monkeypatch.setattr(gains, "PLAIN", replace(gains.PLAIN, depth=2, sides=(1, 2, 3)))
    monkeypatch.setattr(gains, "quantizer_of", lambda plain: sampling.quantizer_of(gains.PLAIN))
    monkeypatch.setattr(autoregressor, "KeyValueCache", KeyValueCache)
    model_of = gains.model_of

    def far_from_untrained(kind: type[Autoregressor]) -> Autoregressor:
        """Whose codes depend on all that it sees."""
        model = model_of(kind)
        for parameter in model.parameters():
            parameter.data *= 5
        return model

    monkeypatch.setattr(gains, "model_of", far_from_untrained)

    def result(set_up: Callable[[], Call]) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.as_tensor(set_up()())

    names = [name for name in gains.GAINS if name.startswith("sampling")]
    assert len(names) == 4
    for name in names:
        with_it, without = gains.GAINS[name]
        assert torch.equal(result(with_it), result(without)), name
    monkeypatch.setattr(gains, "NOTES", 3)
    assert torch.equal(result(partial(gains.encoding, 3)), result(partial(gains.encoding, 1)))
    head, x_TD, codes_TP = torch.nn.Linear(8, 50), torch.randn(30, 8), torch.randint(50, (30, 1))
    torch.testing.assert_close(
        gains.nats_of(x_TD, head, codes_TP)[:, 0], gains.nats_by_torch(x_TD, head, codes_TP), rtol=1e-5, atol=1e-6
    )
