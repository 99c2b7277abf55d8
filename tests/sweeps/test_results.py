"""The table, the page and the TOML of trials that are made up: what stands where."""

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_dist.presets import load
from mars_dist.report.plots import Axis, Point, cloud, parallel, pareto_front, short
from mars_dist.sweeps.conclude import conclude
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.results import rank
from mars_dist.sweeps.search import draw
from mars_dist.sweeps.study import Study

Ended = Callable[..., Record]


@pytest.fixture
def records(study: Study, ended: Ended) -> Records:
    """Four settings: the third best by its one seed that was not stopped, the fourth with none."""
    records = Records(study)
    fates = {0: (3.0, 5.0), 1: (2.0, 2.5), 2: (1.0, "stopped"), 3: ("failed", "stopped")}
    for trial in study.trials(enumerate(draw(study, 4))):
        fate = fates[trial.place][trial.seed]
        ended(records, trial, **({"status": fate} if isinstance(fate, str) else {"score": fate}))
    return records


def test_settings_that_came_to_their_end_from_every_seed_come_first(study: Study, records: Records) -> None:
    ranked = rank(study, Records(study))
    assert [tried.records[0].trial.place for tried in ranked] == [1, 0, 2, 3]
    assert ranked[0].mean("mse_reconstruction") == 2.25 and ranked[0].spread("mse_reconstruction") == 0.25


def test_a_setting_that_lacks_an_added_seed_is_no_rival_of_those_that_have_it(
    study: Study, with_sweep: Callable[..., Study], ended: Ended
) -> None:
    records = Records(study)
    for trial in study.trials(enumerate(draw(study, 2))):
        if (trial.place, trial.seed) != (1, 1):
            ended(records, trial, score=0.9 + 0.2 * trial.seed if trial.place == 0 else 0.95)
    first, second = rank(study, records)
    assert first.complete and not second.complete
    assert (first.mean("mse_reconstruction"), second.mean("mse_reconstruction")) == (1.0, 0.95)
    assert conclude(study, records, print).splitlines()[-1].split(" | ")[3] == "1, 1 not tried"
    one_seed = with_sweep(seeds=(0,))
    assert [tried.complete for tried in rank(one_seed, records)] == [True, True]


def test_the_table_has_means_spreads_fates_and_costs(study: Study, records: Records) -> None:
    lines = conclude(study, records, print).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][:4] == ["codes", "width", "mse_reconstruction", "seeds"] and len(rows) == 6
    assert [row[2] for row in rows[2:]] == ["2.25 ± 0.25", "4 ± 1", "1", ""]
    assert [row[3] for row in rows[2:]] == ["2", "2", "1, 1 stopped", "1 failed, 1 stopped"]
    assert rows[2][4] == "21" and rows[2][6:] == ["3e+09", "3"]
    assert (Path(study.out) / "table.md").read_text() == "\n".join(lines) + "\n"


def test_the_best_setting_is_a_preset(study: Study, records: Records) -> None:
    conclude(study, records, print)
    best = rank(study, records)[0]
    assert load(str(Path(study.out) / "best.toml")) == study.sweep.preset_of(best.choice)


def test_the_best_setting_of_a_file_needs_that_file_no_more(
    study: Study, ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And trials, which run in folders of their own, never do."""
    monkeypatch.chdir(tmp_path)
    own = ('preset = "debug"', "[tokenizer]", "tokenizer.head_width = 8", "optim.lr = 0.1", "")
    Path("mine.toml").write_text("\n".join(own))
    of = replace(study, sweep=replace(study.sweep, preset="mine.toml"))
    sent = pickle.dumps(of)
    Path("mine.toml").unlink()
    there: Study = pickle.loads(sent)
    trial = there.trials(enumerate(draw(there, 1)))[0]
    settings = there.preset(trial.choice).tokenizer
    assert (settings.tokenizer.head_width, settings.optim.lr) == (8, 0.1) and there.stages(trial)
    conclude(there, records := Records(there), print)
    ended(records, trial)
    conclude(there, records, print)
    assert load(str(Path(there.out) / "best.toml")) == there.sweep.preset_of(trial.choice)


def test_the_page_tells_all_of_it(study: Study, records: Records) -> None:
    conclude(study, records, print)
    page = (Path(study.out) / "sweep.html").read_text()
    for text in (
        "4 of 9 settings of tokenizers, varied from the preset debug, each from 2 seeds: 8 trials (5 finished,",
        "The debug preset shows that the machinery works",
        "2.25 ± 0.25",
        "no memory left",
        "mse_reconstruction, validation",
        'class="setting best"',
    ):
        assert text in page, text
    assert page.count('class="dot series-') == 2, "mean squared and absolute errors of the one with a single report"
    assert page.count("<circle") == 4 and page.count('class="setting') == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_each_finished_trial_is_a_run_of_tensorboard(study: Study, records: Records) -> None:
    for _ in range(2):
        conclude(study, records, print)
        runs = {path.parent.name for path in (Path(study.out) / "tensorboard").glob("*/events*")}
        assert runs == {"000-seed-0", "000-seed-1", "001-seed-0", "001-seed-1", "002-seed-0"}


@pytest.mark.parametrize("budget", [{}, {"seconds": 90.0}])
def test_trials_that_were_stopped_alike_stand_by_their_errors(
    with_sweep: Callable[..., Study], budget: dict[str, float]
) -> None:
    """Whatever a ninth of the budget is in whole steps of each, or a second in FLOPs."""
    study = with_sweep(seeds=(0,), **budget)
    records = Records(study)
    for place, trial in enumerate(study.trials(enumerate(draw(study, 9)))):
        [stage], record = study.stages(trial), records.begin(trial)
        step, error = stage.config.train.validate_every, float(5 * place % 9)
        record.add(
            {
                "stage": 0,
                "step": step,
                "flops": step * stage.flops_per_step,
                "seconds": 10.0,
                "mse_reconstruction": error,
            }
        )
        record.status = "stopped"
    errors = [tried.records[0].reports[-1]["mse_reconstruction"] for tried in rank(study, records)]
    assert errors == sorted(errors)


def test_a_choice_stands_below_its_name_in_whatever_order_the_file_has_them_now(
    study: Study, with_sweep: Callable[..., Study], records: Records
) -> None:
    best = rank(study, records)[0].choice
    turned = with_sweep(space=dict(reversed(study.sweep.space.items())))
    head, _, first, *_ = conclude(turned, Records(turned), print).splitlines()
    assert head.startswith("| width | codes |") and first.startswith(f"| {best['width']} | {best['codes']} |")


def test_a_sweep_without_a_result_has_a_page_and_no_best(study: Study, ended: Ended, tmp_path: Path) -> None:
    records = Records(study)
    ended(records, study.trials(enumerate(draw(study, 1)))[0], "failed")
    assert "1 failed" in conclude(study, records, print)
    assert not (Path(study.out) / "best.toml").exists() and "1 failed" in (Path(study.out) / "sweep.html").read_text()


def test_a_sweep_may_lie_in_a_bucket(study: Study, ended: Ended, bucket: str) -> None:
    of = replace(study, out=bucket)
    for trial in of.trials(enumerate(draw(of, 1))):
        ended(Records(of), trial, score=0.5)
    found = Records(of)
    assert [record.score["mse_reconstruction"] for record in found] == [0.5, 0.5]
    for _ in range(2):
        assert "| 0.5 ± 0 |" in conclude(of, found, print)
    kept = {"sweep.json", "trials", "table.md", "results.json", "sweep.html", "best.toml", "tensorboard"}
    assert of.home.list() == kept
    assert of.home.sub("tensorboard").list() == {"000-seed-0", "000-seed-1"}


numbers = st.integers(0, 6).map(float)


def test_numbers_along_an_axis_differ() -> None:
    points = [Point("cheap", 1.106e9, 2.0), Point("dear", 1.124e9, 1.0)]
    numbers = re.findall(r'class="x">([^<]*)<', cloud("error", "FLOPs", points, "min"))
    assert len(set(numbers)) == len(numbers) > 2


@pytest.mark.parametrize(("low", "high"), [(1204.3, 1215.2), (612.1, 613.9), (0.98731, 0.98842), (-0.00021, 0.00034)])
def test_numbers_up_an_axis_are_where_they_stand(low: float, high: float) -> None:
    """Whatever their first digits have in common."""
    drawn = cloud("bits", "FLOPs", [Point("cheap", 1.0, high), Point("dear", 2.0, low)], "min")
    top, bottom = map(float, re.findall(r'cy="([\d.]+)"', drawn))
    numbers = re.findall(r'y="([\d.]+)" class="y">([^<]*)<', drawn)
    stands = [low + (high - low) * (bottom - float(y) + 4) / (bottom - top) for y, _ in numbers]
    assert len(numbers) > 1
    assert [float(number) for _, number in numbers] == pytest.approx(stands, abs=0.001 * (high - low))


def test_names_and_headings_of_parallel_axes_have_room() -> None:
    """Forty choices of one setting, beside the metrics with the longest names: none lies over another one."""
    names = [f"{i}e-5" for i in range(40)]
    headings = ["lr", "multi_resolution_stft_reconstruction", "log_spectral_distance_reconstruction"]
    drawn = parallel([Axis(headings[0], names), *(Axis(name, list(range(40))) for name in headings[1:])], names)
    heights = [float(y) for y in re.findall(r'y="([\d.]+)">\d+e-5<', drawn)]
    assert len(heights) == 40 and all(low - high >= 12 for high, low in pairwise(heights))
    middles = [int(x) for x in re.findall(r'<text x="(\d+)" y="16"', drawn)]
    assert len(middles) == 3 and middles[2] - middles[1] > 6.5 * len(headings[1]) < 2 * middles[0]


def test_the_ends_of_a_parallel_axis_are_named_where_they_stand() -> None:
    """Also where what lies beside them reads alike."""
    drawn = parallel([Axis("error", [0.01201, 0.01204, 0.0122])], ["best", "second", "third"])
    places = [float(y) for y in re.findall(r'points="\d+,([\d.]+)"', drawn)]
    named = {label: float(y) - 4 for y, label in re.findall(r'y="([\d.]+)">(0[\d.]+)<', drawn)}
    assert named == {"0.0120": max(places), "0.0122": min(places)}


@given(st.lists(st.builds(Point, st.just("a"), numbers, numbers), min_size=1), st.sampled_from(["min", "max"]))
def test_nothing_beats_what_is_on_the_front(points: list[Point], mode: str) -> None:
    sign = 1 if mode == "min" else -1

    def beaten(one: Point) -> bool:
        return any(
            other.x <= one.x and sign * other.y <= sign * one.y and (other.x, other.y) != (one.x, one.y)
            for other in points
        )

    front = pareto_front(points, mode)  # type: ignore[arg-type]
    assert {(one.x, one.y) for one in front} == {(one.x, one.y) for one in points if not beaten(one)}
    assert [one.x for one in front] == sorted({one.x for one in front})


def test_numbers_are_short() -> None:
    assert [short(value) for value in (1234, 0.012345, 5.63e9, 2e6, 0)] == [
        "1,234",
        "0.0123",
        "5.63\u202fG",
        "2\u202fM",
        "0",
    ]
