"""From nothing to sound on one machine: the whole pipeline with `tiny`, each stage only where it is not finished."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from mars_dist.config import ClassifierRunConfig
from mars_dist.cpus import cpu
from mars_dist.notes import RECORD, NotesConfig, render
from mars_dist.pipeline import PAGE, Pipeline
from mars_dist.presets import load
from mars_dist.progress import say, tenths
from mars_dist.serialize import read_json, write_json

VELOCITIES = (50, 100, 127)
MEASURED = {"valid": 544, "test": 176}
"""Notes of each split that are measured."""
SHOWN = 8
SECONDS_BETWEEN_LOOKS = 4.0
"""At the memory of all processes: a look costs some tenths of a second."""
COMPARED = ("pitch_accuracy", "log_spectral_distance", "mse")


@dataclass(frozen=True)
class Quickstart:
    out: str = "quickstart"
    """Folder for everything."""
    preset: str = "tiny"
    workers: int | None = None
    """As for mars train-tokenizer."""


def run(options: Quickstart) -> None:
    """Run what is missing, then write summary.json and print the table. Raises ValueError for what a user can mend."""
    from mars_dist.page import figures_of

    out = Path(options.out).absolute()
    preset = load(options.preset)
    conditioned = replace(preset.autoregressor.autoregressor, condition_on_instrument=True)
    preset = replace(preset, autoregressor=replace(preset.autoregressor, autoregressor=conditioned))
    notes, classifier = out / "notes", ClassifierRunConfig(preset.tokenizer.spectrogram)
    stages = Stages(out / "stages.json")
    with stages.run("notes"):
        render(notes, NotesConfig(velocities=VELOCITIES), progress=tenths("notes"))
    pipeline = Pipeline(str(notes), out, preset, classifier, MEASURED, SHOWN)
    table = pipeline.run(options.workers, classifier_workers=0, stage=stages.run)
    tokenizer, model = out / "tokenizer", out / "autoregressor"
    write_json(out / "summary.json", summary(stages, notes, tokenizer, model, out / figures_of(PAGE)))
    print(table)
    for what, path in {
        "page to listen to": out / PAGE,
        "figures": out / "summary.json",
        "tokenizer": tokenizer,
        "autoregressor": model,
        "curves, pictures, sounds": f"tensorboard --logdir {out}  (pip install tensorboard)",
    }.items():
        say(f"{what:25} {path}")
    say(f"{'make a note yourself':25} mars sample {model} --pitch 60 --family guitar --out samples/")


def summary(stages: "Stages", notes: Path, tokenizer: Path, model: Path, figures: Path) -> dict[str, Any]:
    """What summary.json says."""
    from mars_dist.model import num_parameters

    splits = read_json(figures)["splits"]
    measures, counts = splits["valid"]["measures"], read_json(notes / RECORD)["counts"]
    return {
        "wall_seconds": {"total": round(sum(stages.seconds.values()), 1)} | stages.seconds,
        "peak_rss_bytes": stages.peak_bytes,
        "cpu": cpu(),
        "notes": counts,
        "parameters": {"tokenizer": num_parameters(tokenizer), "autoregressor": num_parameters(model)},
        **{metric: measures[metric] for metric in COMPARED},
        "test": {metric: splits["test"]["measures"][metric] for metric in COMPARED},
    }


class Stages:
    """Seconds of each stage, over all runs of it, and the largest memory of all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        before = read_json(path) if path.exists() else {}
        self.seconds: dict[str, float] = before.get("seconds", {})
        self.peak_bytes: int = before.get("peak_bytes", 0)

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        """Time what is done within, and watch its memory; kept also when it is broken off."""
        say(f"== {name}")
        start, finished = monotonic(), threading.Event()
        watcher = threading.Thread(target=self.watch, args=(finished,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + monotonic() - start, 1)
            write_json(self.path, {"seconds": self.seconds, "peak_bytes": self.peak_bytes})

    def watch(self, finished: threading.Event) -> None:
        while not finished.wait(SECONDS_BETWEEN_LOOKS):
            self.peak_bytes = max(self.peak_bytes, tree_bytes())


def tree_bytes() -> int:
    """The sum of proportional set sizes over this process and all that come from it."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total
