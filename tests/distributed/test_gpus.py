"""What runs a model is given a share of a GPU, and nothing else is."""

import json
import subprocess
import sys

import pytest

from mars_dist.distributed.cluster import num_tasks

# A runtime of its own: that of the other tests has no GPU. This one only says that it has one.
DRIVER = """
import json
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from mars_dist.distributed.cluster import over_cluster, over_gpus
from mars_dist.distributed.trial import on_a_gpu

ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
given = lambda _: ray.get_runtime_context().get_accelerator_ids()["GPU"]

def trial():
    try:
        on_a_gpu(lambda: int("no number"))
    except ValueError as error:
        return given(0), on_a_gpu(given, 0), str(error)

drivers = ray.util.placement_group([{"CPU": 2}])
as_tune_does = PlacementGroupSchedulingStrategy(drivers, 0, True)
of_trial = ray.get(ray.remote(scheduling_strategy=as_tune_does)(trial).remote(), timeout=60)
ray.util.remove_placement_group(drivers)
print(json.dumps([*(list(over(given, range(3))) for over in (over_gpus, over_cluster)), of_trial]))
"""


def test_work_of_models_is_given_a_gpu() -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, check=True)
    with_models, without, (to_trial, to_its_model, error) = json.loads(done.stdout.splitlines()[-1])
    assert with_models == [["0"]] * 3
    assert without == [[]] * 3
    assert (to_trial, to_its_model) == ([], ["0"]), "a sweep's driver has none, what encodes and measures for it has"
    assert error == "invalid literal for int() with base 10: 'no number'", "as the work itself raised it"


@pytest.mark.parametrize(
    ("num_items", "there", "of_a_gpu", "expected"),
    [
        (64, {"CPU": 16.0}, 0, 64),
        (64, {"CPU": 2.0}, 0, 8),
        (64, {"CPU": 16.0, "GPU": 1.0}, 0.25, 16),  # each a process that loads the model: not 64 of them
        (64, {"CPU": 16.0, "GPU": 1.0}, 0, 64),
        (3, {"CPU": 16.0}, 0, 3),
        (1000, {"CPU": 2.0}, 0, 125),
        (5, {}, 0, 1),
    ],
)
def test_items_are_parted_by_what_runs_at_once(
    num_items: int, there: dict[str, float], of_a_gpu: float, expected: int
) -> None:
    assert num_tasks(num_items, there, of_a_gpu) == expected
