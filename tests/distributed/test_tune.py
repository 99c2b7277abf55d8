"""Sweeps over a real Ray runtime: trials that finish, fail, are stopped and are killed, and what is left of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.tune.integration.ray_train import TuneReportCallback

from mars_dist.distributed import tune
from mars_dist.distributed.orphans import free_orphans
from mars_dist.distributed.trial import Reports
from mars_dist.distributed.tune import DRIVER_MEMORY, at_once, run_trials
from mars_dist.evaluation.judges import Judges
from mars_dist.page import EvaluationPlan, evaluate_folders
from mars_dist.phase import DEFAULT
from mars_dist.sampling import AS_ASKED
from mars_dist.serialize import read_json
from mars_dist.storage import Folder
from mars_dist.sweeps import Sweep, choices
from mars_dist.sweeps.conclude import conclude
from mars_dist.sweeps.metrics import known
from mars_dist.sweeps.records import RECORD, Record, Records
from mars_dist.sweeps.results import rank
from mars_dist.sweeps.search import make_search
from mars_dist.sweeps.study import Study, Trial
from mars_dist.training.journal import read_metrics

from .kills import require_all_cpus_free

SETTINGS = {
    "tokenizer.spectrogram.num_samples": 2000,
    "tokenizer.spectrogram.n_fft": 128,
    "tokenizer.spectrogram.cmx": "4x4",
    "tokenizer.tokenizer.patch": "4x1",
    "tokenizer.tokenizer.scales": ["1x1", "4x4"],
    "tokenizer.train.steps": 27,
    "autoregressor.train.steps": 18,
}
RATE = "tokenizer.optim.lr"


def run(study: Study) -> tuple[Records, list[str]]:
    """All trials; what became of them, and what was said."""
    lines: list[str] = []
    records = Records(study)
    run_trials(study, make_search(None, study, None, records), records, lines.append)
    return Records(study), lines


@pytest.fixture
def study(short_pictures: str, tmp_path: Path) -> Callable[..., Study]:
    def make(kind: Any = "tokenizer", **of_sweep: Any) -> Study:
        sweep = Sweep(kind, preset="debug", settings=SETTINGS, **of_sweep)
        return Study(sweep, short_pictures, tmp_path / "sweep", num_notes=4)

    return make


@pytest.fixture
def all_free() -> Callable[[], bool]:
    """Whether every CPU is given back soon."""

    def wait() -> bool:
        end = monotonic() + 20
        while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
            if monotonic() > end:
                return False
            sleep(0.1)
        return True

    return wait


def test_a_trial_that_fails_ends_no_other_and_the_best_score_is_what_mars_evaluate_finds(
    study: Callable[..., Study], all_free: Callable[[], bool], tmp_path: Path
) -> None:
    of = study(space={"rate": choices(RATE, 2e-3, 1e30)}, stop_early=False)
    records, lines = run(of)
    good, bad = sorted(records, key=lambda record: record.trial.choice["rate"])
    assert (good.trial.choice, bad.trial.choice) == ({"rate": "0.002"}, {"rate": "1e+30"})
    assert good.status == "finished" and [report["step"] for report in good.reports] == list(range(6, 28, 3))
    assert good.reports[-1]["flops"] == pytest.approx(of.budget) and good.reports[-1]["seconds"] > 0
    assert bad.status == "failed" and "not finite at step" in bad.error
    assert lines[0].startswith("4 trials at once, of 1 CPU worker and a driver each")
    assert any(line.endswith(f"failed: {bad.error}") for line in lines) and all_free()

    best = rank(of, records)[0]
    assert best.records == [good]
    report = Folder.open(tmp_path)
    plan = EvaluationPlan([of.model(good.trial)], of.data, {"valid": 4}, 1, Judges(), AS_ASKED, DEFAULT)
    evaluate_folders(plan, report, "r.html", print)
    measures = read_json(tmp_path / "r.json")["splits"]["valid"]["measures"]
    assert good.score.keys() == known("tokenizer").keys()
    for name, metric in known("tokenizer").items():
        assert good.score[name] == pytest.approx(measures[metric.measure]["reconstruction"]["value"], rel=1e-4), name

    search = make_search(None, of, None, records)
    assert search.ended, "neither the finished nor the failed one is run again"


@pytest.mark.cluster
def test_a_trial_that_falls_behind_is_stopped_and_its_workers_are_gone(
    study: Callable[..., Study], all_free: Callable[[], bool]
) -> None:
    """Behind one that ended before this process began; trials last the same time."""
    of = study(space={"rate": choices(RATE, 2e-3, 1e-3)}, seconds=3.0)
    records = Records(of)
    ended = records.begin(of.trials(enumerate(of.sweep.grid()))[0])
    for share in (1 / 9, 1 / 3, 1):
        spent = {"stage": 0, "step": int(90 * share), "flops": 1e9 * share, "seconds": 3 * share}
        ended.add(spent | {"mse_reconstruction": 1e-9, "mae_reconstruction": 1e-9})
    ended.status, ended.score = "finished", dict.fromkeys(known("tokenizer"), 1e-9)
    records.save(ended)
    lines: list[str] = []
    run_trials(of, make_search(None, of, None, records), records, lines.append)
    [other] = (record for record in Records(of) if record.trial.name != ended.trial.name)
    assert other.status == "stopped" and len(other.reports) == 1 and not other.score
    assert other.reports[0]["seconds"] > 0.9 * 3 / 9
    assert lines[-1].endswith(", stopped") and all_free()
    folder = Path(of.within(other.trial, "tokenizer"))
    [*_, last] = read_metrics(folder, "train")
    sleep(2)
    assert read_metrics(folder, "train")[-1] == last, "nobody trains on"


@pytest.mark.cluster
def test_what_training_noted_unheard_is_told_when_the_sweep_goes_on(study: Callable[..., Study]) -> None:
    """Killed after the training of a trial, before its last reports came and before it was measured."""
    of = study(space={"rate": choices(RATE, 2e-3)}, stop_early=False)
    records, _ = run(of)
    [whole] = records
    records.save(replace(whole, status="running", reports=whole.reports[:3], score={}))
    [again], lines = run(of)
    assert again.status == "finished" and again.score == whole.score
    assert [report["step"] for report in again.reports] == [report["step"] for report in whole.reports]
    assert again.reports[:3] == whole.reports[:3]
    for report, before in zip(again.reports[3:], whole.reports[3:], strict=True):
        assert report | {"seconds": 0} == pytest.approx(before | {"seconds": 0})
    seconds = [report["seconds"] for report in again.reports]
    assert seconds == sorted(set(seconds))
    assert sum("mse_reconstruction" in line for line in lines) == 6, "five reports and the end, none twice"


@pytest.mark.cluster
def test_both_stages_in_a_row_with_all_that_is_kept_in_a_bucket(study: Callable[..., Study], bucket: str) -> None:
    of = replace(study("both", space={"codes": choices("tokenizer.tokenizer.codebook_size", 16)}), out=bucket)
    [record], lines = run(of)
    assert record.error == ""
    assert record.status == "finished" and record.score.keys() == known("both").keys()
    stages = [report["stage"] for report in record.reports]
    assert stages == sorted(stages) and set(stages) == {0, 1}
    assert record.spent("flops") == pytest.approx(of.budget, rel=0.05)
    bits = [report["bits_per_second_sample"] for report in record.reports if report["stage"] == 1]
    assert bits[-1] == pytest.approx(record.score["bits_per_second_sample"], rel=0.02), "bf16 against float32"
    assert "| 16 |" in conclude(of, Records(of), lines.append)
    kept = {"sweep.json", "trials", "table.md", "results.json", "sweep.html", "best.toml", "tensorboard"}
    assert kept <= of.home.list() <= kept | {".lease.json"}


@pytest.mark.cluster
@pytest.mark.parametrize("may_be_lost", [3, 0])
def test_a_trial_whose_driver_is_lost_goes_on_with_another(
    may_be_lost: int, study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was once too often: then the sweep goes on without it, and says so."""
    monkeypatch.setattr(tune, "DRIVERS_LOST", may_be_lost)
    of = study(space={"rate": choices(RATE, 2e-3)}, stop_early=False)
    of = replace(of, sweep=replace(of.sweep, settings=SETTINGS | {"tokenizer.train.steps": 90}))
    killed: list[str] = []

    def kill() -> None:
        while not killed:
            sleep(0.05)
            if any(record.reports for record in Records(of)):
                [driver] = [one for one in psutil.Process().children(recursive=True) if is_driver(one)]
                killed.append(" ".join(driver.cmdline()))
                driver.kill()

    killer = Thread(target=kill)
    killer.start()
    [record], lines = run(of)
    killer.join()
    steps = [report["step"] for report in record.reports]
    if may_be_lost:
        assert record.status == "finished" and steps == list(range(10, 91, 10)), (killed, lines)
    else:
        assert record.status == "failed" and record.error.startswith("its driver was lost"), (killed, lines)
        assert lines[-1].endswith(f"failed: {record.error}")
        assert make_search(None, of, None, Records(of)).ended, "it is not run again"
        free_orphans()  # as the next training does
    require_all_cpus_free()


def test_a_trial_that_has_lost_its_last_driver_is_noted_with_the_reason(study: Callable[..., Study]) -> None:
    """As Ray tells of it: the search first."""
    of, lines = study(space={"rate": choices(RATE, 2e-3)}), list[str]()
    records = Records(of)
    notes = tune.Notes(of, records, set(), lines.append)
    proposals = tune.Proposals(make_search(None, of, None, records), records, notes.lost)
    proposals.suggest("a")
    proposals.on_trial_complete("a", error=True)
    [kept] = Records(of)
    assert kept.status == "failed" and kept.error.startswith("its driver was lost")
    assert [line.partition(") ")[2] for line in lines] == [f"failed: {kept.error}"]


def test_a_trial_that_goes_on_is_not_stopped_by_what_it_passed_before(study: Callable[..., Study]) -> None:
    """Others came to that rung after it, and did better: it went on all the same, and does so after a kill."""
    of = study(space={"rate": choices(RATE, 2e-3, 1e-3, 5e-4)})
    records, behind = Records(of), set[str]()
    first, *others = (records.begin(trial) for trial in of.trials(enumerate(of.sweep.grid())))

    def report(ninths: int, mse: float) -> dict[str, float]:
        return {"stage": 0, "step": 3 * ninths, "flops": ninths / 9 * of.budget, "mse_reconstruction": mse}

    for record in others:
        record.status, record.reports = "finished", [report(1, 0.1), report(9, 0.1)]
    first.reports = [report(1, 2.0), report(2, 1.5)]
    line: Any = SimpleNamespace(stop=lambda name: None)
    halving = tune.Halving(of, records, behind, line)
    trial: Any = SimpleNamespace(trial_id="of Ray", config=vars(first.trial))
    halving.on_trial_add(None, trial)
    for again in first.reports:
        halving.on_trial_result(None, trial, again)
    assert not behind
    halving.on_trial_result(None, trial, report(3, 1.0))
    assert behind == {first.trial.name}, "the next rung is new to it"


def test_a_checkpoint_before_any_validation_is_no_report(
    study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is saved when a machine is about to be taken away."""
    of, told = study(space={"rate": choices(RATE, 2e-3)}), list[dict[str, float]]()
    monkeypatch.setattr(TuneReportCallback, "__init__", lambda self: None)  # it wants to be in a trial
    monkeypatch.setattr(TuneReportCallback, "after_report", lambda self, run, metrics, saved: told.extend(metrics))
    [stage] = of.stages(Trial(0, of.sweep.grid()[0], 0))
    reports = Reports(0, stage, 0.0, 0.0, None, Record(Trial(0, of.sweep.grid()[0], 0)))
    figures = {"mse": 2.0, "mae": 1.0}
    for step, known_then in ((stage.born - 1, figures), (stage.born + 1, {}), (stage.born + 2, figures)):
        reports.after_report(None, [{"step": step, "seconds": float(step)} | known_then])
    [report] = told
    assert report["step"] == stage.born + 2 and report["mse_reconstruction"] == 2.0


def test_where_seconds_are_the_budget_steps_tell_how_much_is_spent(
    study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that starts slowly is not taken for one that has trained: it has its rung at a ninth like the others."""
    monkeypatch.setattr(TuneReportCallback, "__init__", lambda self: None)
    of = study("both", space={"rate": choices(RATE, 2e-3)}, seconds=60.0)
    trial = Trial(0, of.sweep.grid()[0], 0)
    first, second = (stage.lasting(90) for stage in of.stages(trial))
    record = Record(trial)
    for place, stage, share in ((0, first, 0.0), (1, second, first.share)):
        reports = Reports(place, stage, 0.0, share, of.sweep.seconds, record)
        figures = dict.fromkeys((figure for figure, _ in stage.figures.values()), 1.0)
        told = [reports.report_of({"step": step, "seconds": 25.0 + step} | figures)["seconds"] for step in (10, 90)]
        assert told == pytest.approx([60 * (share + stage.share / 9), 60 * (share + stage.share)])


def is_driver(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()).startswith("ray::ImplicitFunc")
    return False


FILE = """
from mars_dist.sweeps import Sweep, choices
SWEEP = Sweep("tokenizer", {{"rate": choices("{rate}", 2e-3, 1e-3, 5e-4)}}, "debug", {settings}, stop_early=False)
"""


@pytest.mark.cluster
def test_a_sweep_that_is_killed_finishes_with_the_same_trials_and_runs_none_twice(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    """Killed while one trial has finished and another has saved something."""
    settings = SETTINGS | {"tokenizer.train.steps": 90}
    (tmp_path / "mine.py").write_text(FILE.format(rate=RATE, settings=settings))
    of = study(space={"rate": choices(RATE, 2e-3, 1e-3, 5e-4)}, stop_early=False)
    of = replace(of, sweep=replace(of.sweep, settings=settings))
    words = ["-c", "from mars_dist.cli import main; main()", "tune", str(tmp_path / "mine.py"), "--data", of.data]
    command = [sys.executable, *words, "--out", str(of.out), "--notes", "4"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: {"finished", "running"} <= states(of), driver, tmp_path / "log")
    finally:
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        _, alive = psutil.wait_procs(family, timeout=60)
        for process in alive:
            process.kill()
    before = {record.trial.name: of.folder(record.trial).read(RECORD) for record in Records(of) if record.over}
    half = {record.trial.name: record.reports for record in Records(of) if not record.over}
    assert 1 <= len(before) < 3
    records, _ = run(of)
    assert len(list(records)) == 3 and {record.status for record in records} == {"finished"}
    for record in records:
        folder = of.folder(record.trial)
        if record.trial.name in before:
            assert folder.read(RECORD) == before[record.trial.name]
        steps = [report["step"] for report in record.reports]
        assert steps == sorted(set(steps)) and steps[-1] == 90
        kept = half.get(record.trial.name, [])[:-1]
        assert record.reports[: len(kept)] == kept, "the last one may have come without its checkpoint"


def states(study: Study) -> set[str]:
    """Of the trials that have reported something."""
    return {record.status for record in Records(study) if record.reports}


def wait_until(condition: Callable[[], bool], driver: "subprocess.Popen[bytes]", log: Path) -> None:
    end = monotonic() + 240
    while not condition():
        assert monotonic() < end and driver.poll() is None, log.read_text()
        sleep(0.05)


def test_what_no_cluster_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--workers: 64 workers need 64 CPUs, there are 4: choose at most 4"):
        at_once(64, "CPU")
    assert [at_once(workers, "CPU") for workers in (1, 2, 3, 4)] == [4, 2, 1, 1]
    assert ray.cluster_resources()["memory"] > 4 * DRIVER_MEMORY


def test_a_cluster_that_grows_runs_what_it_can_grow_to(
    study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARS_GPUS", "2")
    assert [at_once(workers, "GPU") for workers in (1, 2)] == [2, 1]
    of = replace(study(space={"rate": choices(RATE, 2e-3)}), workers=3)
    with pytest.raises(ValueError, match=r"--workers: 3 workers need 3 GPUs, the cluster grows to 2: choose at most 2"):
        run(of)
