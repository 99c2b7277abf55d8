"""A training that waits for a cluster to grow."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mars_dist.distributed import scaling
from mars_dist.errors import Stopped, TrainingFailed
from mars_dist.launch import fit
from mars_dist.training.plan import Plan


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, str]]]:
    """A cluster that grows to 16 GPUs, and what it is asked for: labels of the nodes, one a GPU."""
    wishes: list[list[dict[str, str]]] = []

    def note(bundles: list[dict[str, int]], bundle_label_selectors: Sequence[dict[str, str]] = ()) -> None:
        assert bundles == [{"GPU": 1}] * len(bundle_label_selectors)
        wishes.append(list(bundle_label_selectors))

    monkeypatch.setenv("MARS_GPUS", "16")
    monkeypatch.setattr(scaling, "request_resources", note)
    return wishes


def test_a_cluster_that_does_not_grow_is_taken_as_it_is(said: list[str]) -> None:
    scaling.gather(100, said.append)
    assert said == []


def test_more_than_it_can_grow_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARS_GPUS", "16")
    with pytest.raises(
        ValueError, match=r"--workers: 17 workers need 17 GPUs, the cluster grows to 16: choose at most"
    ):
        scaling.require_room(17)
    with pytest.raises(
        ValueError, match=r"--workers: the cluster starts its GPUs, at most 16, when they are asked for"
    ):
        scaling.default_workers()


def test_what_does_not_fit_is_told_before_gpus_are_waited_for(
    tokenizer_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("MARS_GPUS", "16")
    monkeypatch.setattr(scaling, "START_SECONDS", 0.0)
    plan = replace(tokenizer_plan, folder=tmp_path / "run")
    with pytest.raises(ValueError, match=r"train\.batch_size: 4 rows are too few for 8 workers"):
        fit(plan, 8, said.append)
    with pytest.raises(ValueError, match=r"no data set there"):
        fit(replace(plan, data=str(tmp_path / "nothing")), 4, said.append)
    assert said == []
    with pytest.raises(TrainingFailed, match=r"only 0 of 4 GPUs came"):
        fit(plan, 4, said.append)


def test_gpus_are_asked_for_and_waited_for_until_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, said: list[str], asked: list[list[dict[str, str]]]
) -> None:
    there = iter([0, 0, 0, 4, 8])
    with monkeypatch.context() as patch:
        patch.setattr(scaling, "num_gpus", lambda: next(there))
        scaling.gather(8, said.append)
    assert said == ["waiting for nodes: 0 of 8 GPUs are there"]
    assert asked == [[{}] * 8] * 2 + [[]], "again and again, and no more once they are there"

    monkeypatch.setattr(scaling, "START_SECONDS", 0.5)
    asked.clear()
    with pytest.raises(TrainingFailed, match=r"only 0 of 5 GPUs came within 0 minutes"):
        scaling.gather(5, said.append)
    assert asked == [[{}] * 5, []]


def test_what_spot_has_not_brought_in_some_minutes_is_asked_for_on_demand(
    monkeypatch: pytest.MonkeyPatch, said: list[str], asked: list[list[dict[str, str]]]
) -> None:
    there = iter([0, 0, 0, 4, 5, 8])
    monkeypatch.setattr(scaling, "num_gpus", lambda: next(there))
    monkeypatch.setattr(scaling, "SPOT_SECONDS", 0.8)
    scaling.gather(8, said.append)
    assert asked == [[{}] * 8, [{}] * 4 + [{"market": "on-demand"}] * 4, [{}] * 8, []], "and for spot again, in turns"
    assert said[1:] == ["waiting for nodes: 4 GPUs are now asked for on demand"]


def test_who_is_stopped_while_it_waits_leaves_no_wish_behind(
    monkeypatch: pytest.MonkeyPatch, said: list[str], asked: list[list[dict[str, str]]]
) -> None:
    """Or nodes would come, and stay, for nobody."""
    monkeypatch.setattr(scaling, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="stopped by SIGTERM while it waited for nodes"):
        scaling.gather(2, said.append)
    assert asked == [[{}] * 2, []]
