from collections.abc import Callable
from typing import Literal

import pytest
import torch

from mars_dist.config import Precision, TrainConfig
from mars_dist.costs import tokenizer_step
from mars_dist.precision import settled
from mars_dist.presets import PRESETS
from mars_dist.training import sharding

Describe = Callable[..., None]


@pytest.mark.parametrize(
    "names, chosen", [((), "float32"), (("avx512_f",), "float32"), (("avx512_bf16",), "bf16"), (("amx_bf16",), "bf16")]
)
def test_a_cpu_that_only_emulates_bf16_trains_in_float32(
    names: tuple[str, ...], chosen: Precision, this_cpu_can: Describe
) -> None:
    this_cpu_can(*names)
    assert settled("auto", "cpu") == chosen


@pytest.mark.parametrize("can, chosen", [(False, "float32"), (True, "bf16")])
def test_a_gpu_that_only_emulates_bf16_trains_in_float32(
    can: bool, chosen: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settled("auto", "cuda") == "bf16"  # there is none here: it is only named
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or can)
    assert settled("auto", "cuda") == chosen


@pytest.mark.parametrize("asked", ["float32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_asked_for_is_done(asked: Precision, device: Literal["cpu", "cuda"], this_cpu_can: Describe) -> None:
    this_cpu_can()
    assert settled(asked, device) == asked


def test_workers_compute_in_what_suits_all(this_cpu_can: Describe, monkeypatch: pytest.MonkeyPatch) -> None:
    this_cpu_can("avx512_bf16")
    monkeypatch.setattr(sharding, "gather_objects", lambda mine: [mine, "float32"])
    assert sharding.agreed_precision("auto", torch.device("cpu")) == "float32"
    monkeypatch.setattr(sharding, "gather_objects", lambda mine: [mine, "bf16"])
    assert sharding.agreed_precision("auto", torch.device("cpu")) == "bf16"


def test_costs_are_those_of_the_device(this_cpu_can: Describe) -> None:
    this_cpu_can()
    run = PRESETS["debug"].tokenizer
    assert run.train == TrainConfig(**(vars(run.train) | {"precision": "auto"}))
    assert tokenizer_step(run).train.precision == "bf16"
    assert tokenizer_step(run, "cpu").train.precision == "float32"
