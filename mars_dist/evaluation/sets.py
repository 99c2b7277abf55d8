"""Measures of a line's notes as a set: how likely, how varied, how near to the real ones.

Suffixes: N notes, D features, K classes.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.evaluation.judges import CLASSIFIER, PICTURE, Features
from mars_dist.evaluation.measures import measure_named
from mars_dist.evaluation.work import Map
from mars_dist.metrics.generation import (
    Metric,
    SetScore,
    crossed,
    different_cells,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from mars_dist.metrics.summary import Estimate, bootstrap_set

SCORES: dict[str, tuple[str, Callable[[Tensor], SetScore]]] = {
    "pis": ("pitch_logits", inception_score),
    "iis": ("family_logits", inception_score),
}
"""Of one set, by the classifier's probabilities."""
DISTANCES: dict[str, tuple[str, Metric]] = {
    "pkid": ("pitch_features", kernel_distance),
    "ikid": ("family_features", kernel_distance),
    "ndb": (PICTURE, different_cells),
}
"""Between a set and the real notes."""
OF_EMBEDDINGS: dict[str, Metric] = {"fad": frechet_distance, "kid": kernel_distance}


class Job(NamedTuple):
    """A measure of a line: a piece of work."""

    name: str
    line: str
    features_ND: Tensor
    real_ND: Tensor
    unit_N: NDArray[np.int64] | None
    """As for `bootstrap_set`."""


def set_measures(
    features: Features, unit_N: NDArray[np.int64] | None, over: Map
) -> tuple[dict[str, dict[str, Estimate]], list[str]]:
    """Metric -> line -> estimate; and the metrics that so few notes do not allow, each with the rule."""
    found: dict[str, dict[str, Estimate]] = {}
    left_out: dict[str, str] = {}
    order = [(job.name, job.line) for job in jobs(features, unit_N)]
    done = {(name, line): outcome for name, line, outcome in over(score, jobs(features, unit_N))}
    for name, line in order:
        outcome = done[name, line]
        if isinstance(outcome, Estimate):
            found.setdefault(name, {})[line] = outcome
        else:
            left_out[name] = f"{measure_named(name).heading} is left out: {outcome}"
    return found, list(left_out.values())


def jobs(features: Features, unit_N: NDArray[np.int64] | None) -> Iterator[Job]:
    of_classifier = {name: kind for name, (kind, _) in (SCORES | DISTANCES).items()}
    embeddings = [kind for kind in features if kind != PICTURE and kind not in CLASSIFIER]
    of_embeddings = {f"{name} {kind}": kind for kind in embeddings for name in OF_EMBEDDINGS}
    for name, kind in (of_classifier | of_embeddings).items():
        for line, features_ND in features.get(kind, {}).items():
            yield Job(name, line, features_ND, features[kind]["real"], unit_N)


def score(job: Job) -> tuple[str, str, Estimate | str]:
    """The measure's name, the line, and its estimate, or why there is none."""
    try:
        if job.name in SCORES:
            of_set = SCORES[job.name][1](job.features_ND.softmax(1))
            units = None if job.unit_N is None else [job.unit_N]
            return job.name, job.line, bootstrap_set(of_set, len(job.features_ND), units=units)
        metric = DISTANCES[job.name][1] if job.name in DISTANCES else OF_EMBEDDINGS[job.name.split()[0]]
        return job.name, job.line, crossed(metric, job.features_ND, job.real_ND, unit_N=job.unit_N)
    except ValueError as error:
        _, reason = str(error).split(": ", 1)  # the function's name comes first
        return job.name, job.line, reason
