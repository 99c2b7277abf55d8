"""A training that waits for a cluster to grow."""

import pytest

from mars_dist.distributed import scaling
from mars_dist.errors import TrainingFailed


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_cluster_that_does_not_grow_is_taken_as_it_is(said: list[str]) -> None:
    scaling.gather(100, said.append)
    assert said == []


def test_more_than_it_can_grow_to_is_refused(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("MARS_GPUS", "16")
    with pytest.raises(
        ValueError, match=r"--workers: 17 workers need 17 GPUs, the cluster grows to 16: choose at most"
    ):
        scaling.gather(17, said.append)
    with pytest.raises(
        ValueError, match=r"--workers: the cluster starts its GPUs, at most 16, when they are asked for"
    ):
        scaling.gather(None, said.append)


def test_gpus_are_asked_for_and_waited_for_until_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("MARS_GPUS", "16")
    asked: list[list[dict[str, int]]] = []
    there = iter([0, 0, 4, 8])
    monkeypatch.setattr(scaling, "request_resources", lambda bundles: asked.append(bundles))
    with monkeypatch.context() as patch:
        patch.setattr(scaling, "num_gpus", lambda: next(there))
        scaling.gather(8, said.append)
    assert said == ["waiting for nodes: 0 of 8 GPUs are there"]
    assert asked == [[{"GPU": 1}] * 8, []]

    monkeypatch.setattr(scaling, "START_SECONDS", 0.0)
    with pytest.raises(TrainingFailed, match=r"only 0 of 5 GPUs came within 0 minutes"):
        scaling.gather(5, said.append)
    assert asked[2:] == [[{"GPU": 1}] * 5, []]
