"""What a worker of a training on Ray does by itself."""

from pathlib import Path
from typing import Any

import pytest
import ray

from mars_dist.distributed import worker
from mars_dist.distributed.train import first_cause
from mars_dist.distributed.worker import RayRun, cpus_here


@pytest.mark.parametrize(
    ("damaged", "name"),
    [
        ([], "step_00000300"),
        (["step_00000300"], "step_00000300_again_1"),
        (["step_00000300_again_1", "step_00000300"], "step_00000300_again_2"),
        (["step_00000300_again_9", "step_00000300_again_10", "step_00000300"], "step_00000300_again_11"),
    ],
)
def test_steps_that_come_again_get_names_of_their_own(
    damaged: list[str], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newest are found first."""
    reported = dict[str, Any]()
    monkeypatch.setattr(ray.train, "report", lambda metrics, **report: reported.update(report))
    run = object.__new__(RayRun)
    run.scratch, run.born, run.again = tmp_path, 0.0, 0
    for found in damaged:
        run.distrust(found)
    run.save(300, lambda folder: None, {})
    assert reported["checkpoint_dir_name"] == name


def test_what_ended_a_worker_is_told_in_one_line() -> None:
    assert first_cause(ValueError("Traceback\nValueError: too long\n")) == "ValueError: too long"
    assert first_cause(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(("of_the_machine", "shared"), [(128, 4), (2, 2)])
def test_workers_share_the_cpus_that_ray_gives_out_on_their_node(
    of_the_machine: int, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node of a scheduler's, or in a container, these are fewer than the machine's."""
    monkeypatch.setattr(worker, "own_cpus", lambda: of_the_machine)
    assert cpus_here() == shared
