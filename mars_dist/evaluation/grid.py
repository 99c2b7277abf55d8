"""New notes by family and pitch: what a model can be asked for, at a glance."""

from functools import partial

import numpy as np
import torch

from mars_dist.addresses import Address
from mars_dist.evaluation.evaluate import Task
from mars_dist.evaluation.lines import Version, model_of, sounding
from mars_dist.evaluation.work import NOTES_AT_ONCE, Map
from mars_dist.histogram import Histogram
from mars_dist.nsynth import FAMILIES, VELOCITIES
from mars_dist.rows import evenly

NUM_PITCHES = 6
FIRST_ID = 1_000_000
"""Of the noise: other notes than those that are measured."""
USUAL_VELOCITY = 100
Place = tuple[str, int]
"""Family and MIDI pitch."""


def places_of(histogram: Histogram) -> tuple[list[str], list[int], set[Place]]:
    """The families and some pitches that training had, and those pairs of them that it had."""
    family_N, pitch_N = histogram.columns["family"], histogram.columns["pitch"]
    every = np.unique(pitch_N)
    pitches = every[evenly(len(every), min(NUM_PITCHES, len(every)))].tolist()
    families = [FAMILIES[i] for i in np.unique(family_N)]
    had = {(FAMILIES[family], int(pitch)) for family, pitch in zip(family_N, pitch_N, strict=True)}
    return families, pitches, {(family, pitch) for family in families for pitch in pitches} & had


def velocity_of(histogram: Histogram) -> int:
    """The usual one, or that of training's which is nearest to it: what it never had it has not learnt."""
    return min(
        (VELOCITIES[i] for i in np.unique(histogram.columns["velocity"])), key=lambda had: abs(had - USUAL_VELOCITY)
    )


def sample_grid(task: Task, folder: Address, over: Map) -> dict[Place, Version]:
    """A new note of the model in the folder for each pair of family and pitch that training had."""
    _, _, places = places_of(model_of(folder).histogram)
    numbered = list(enumerate(sorted(places), start=FIRST_ID))
    jobs = [numbered[first : first + NOTES_AT_ONCE] for first in range(0, len(numbered), NOTES_AT_ONCE)]
    return dict(pair for pairs in over(partial(sample_places, task=task, folder=folder), jobs) for pair in pairs)


def sample_places(numbered: list[tuple[int, Place]], task: Task, folder: Address) -> list[tuple[Place, Version]]:
    """A piece of work."""
    mars = model_of(folder)
    velocity = velocity_of(mars.histogram)
    asked = [
        mars.vocabulary.of_words(1, family=family, pitch=pitch, velocity=velocity) for _, (family, pitch) in numbered
    ]
    conditions = {name: torch.cat([one[name] for one in asked]) for name in asked[0]}
    pictures_B1FN = mars.sample_pictures(conditions, [number for number, _ in numbered], task.sampling)
    made = sounding(pictures_B1FN, mars.spectrogram, task.phase)
    return [(place, made.one(i)) for i, (_, place) in enumerate(numbered)]
