"""CPUs and GPUs that a lost training left reserved."""

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group


def free_orphans() -> None:
    """Remove the placement groups of actors that are no more.

    Ray removes those of a training whose controller was lost where its dashboard tells of the loss, and else with the
    job: a runtime of one's own has no dashboard, and its job is the whole process (2.60). On a cluster that others
    share it is not for us to do.
    """
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(raw)
        made_by_an_actor = not ray.ActorID(group.creator_actor_id).is_nil()
        is_there = group.state != PlacementGroupTableData.REMOVED
        if is_there and made_by_an_actor and group.creator_actor_dead and not group.is_detached:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
