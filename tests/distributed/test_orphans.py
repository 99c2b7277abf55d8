"""What a lost actor had reserved is freed; what others have is not."""

from time import monotonic, sleep
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from mars_dist.distributed.orphans import free_orphans


@ray.remote(num_cpus=0)
class Holder:
    """As Ray's controller of a training, which reserves what its workers need."""

    def reserve(self) -> PlacementGroup:
        return reserved()


def reserved() -> PlacementGroup:
    group = placement_group([{"CPU": 0.5}])
    ray.get(group.ready())
    return group


def state_of(group: PlacementGroup) -> str:
    return str(placement_group_table(group)["state"])


def require_freed(group: PlacementGroup) -> None:
    """Soon: Ray learns of a loss in its own time."""
    deadline = monotonic() + 30
    while state_of(group) != "REMOVED":
        assert monotonic() < deadline, state_of(group)
        free_orphans()
        sleep(0.1)


def test_only_what_nobody_has_any_more_is_freed() -> None:
    lost: Any
    kept: Any
    lost, kept, ours = Holder.remote(), Holder.remote(), reserved()
    orphan, others = ray.get(lost.reserve.remote()), ray.get(kept.reserve.remote())
    free_orphans()
    assert state_of(orphan) == "CREATED"
    ray.kill(lost)
    require_freed(orphan)
    assert {state_of(others), state_of(ours)} == {"CREATED"}
    ray.kill(kept)
    remove_placement_group(ours)
    require_freed(others)
