"""What a run's folder remembers, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mars_dist.training.plan import Plan


@pytest.fixture
def plan(tokenizer_plan: Plan, tmp_path: Path) -> Plan:
    return replace(tokenizer_plan, folder=tmp_path / "run")


def with_optim(plan: Plan, **settings: float) -> Plan:
    return replace(plan, config=replace(plan.config, optim=replace(plan.config.optim, **settings)))


def test_a_plan_survives_the_way_to_a_worker(plan: Plan, autoregressor_plan: Plan, classifier_plan: Plan) -> None:
    for one in (plan, autoregressor_plan, classifier_plan):
        assert Plan.from_plain(one.to_plain()) == one


def test_the_same_run_may_begin_again(plan: Plan) -> None:
    for _ in range(2):
        plan.check(workers=1)
    plan.check(workers=2)
    assert not plan.finished


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda plan: with_optim(plan, lr=0.5), r"optim\.lr = 0\.002, not 0\.5"),
        (lambda plan: replace(plan, config=replace(plan.config, train=replace(plan.config.train, steps=30))),
         r"train\.steps = 20, not 30"),
    ],
)  # fmt: skip
def test_another_run_in_its_folder_is_refused(plan: Plan, change: Callable[[Plan], Plan], difference: str) -> None:
    plan.check(workers=1)
    with pytest.raises(ValueError, match=rf"run: holds a run with {difference}: use its settings, or choose another"):
        change(plan).check(workers=1)


def test_finished_means_this_very_run(plan: Plan) -> None:
    plan.mark_finished()
    assert plan.finished
    assert not with_optim(plan, lr=0.5).finished


def test_workers_must_divide_the_batch(
    plan: Plan, autoregressor_plan: Plan, classifier_plan: Plan, tmp_path: Path
) -> None:
    others = (replace(other, folder=tmp_path / "other") for other in (autoregressor_plan, classifier_plan))
    for one in (plan, *others):
        with pytest.raises(ValueError, match=r"train\.batch_size: 4 is not a multiple of the 3 workers"):
            one.check(workers=3)
        assert not one.folder.exists()


def test_a_folder_that_cannot_be_written_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/run: cannot be written .*choose another --out"):
        replace(plan, folder=tmp_path / "file" / "run").check(workers=1)
