"""Trials at equal cost, and what a user can get wrong about them."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import median
from threading import Barrier

import pytest

from mars_dist.config import TokenizerRunConfig
from mars_dist.costs import counted_tokenizer
from mars_dist.dataset import DatasetInfo
from mars_dist.storage import Folder
from mars_dist.sweeps import Sweep, choices, records
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.search import draw, make_search
from mars_dist.sweeps.study import PACE_STEPS, REPORTS, Stage, Study, Trial
from mars_dist.sweeps.sweep import Choices
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

WithSweep = Callable[..., Study]


def test_dearer_settings_make_fewer_steps(study: Study) -> None:
    """All spend what the preset itself takes, to the step."""
    steps = {}
    for choice in study.sweep.grid():
        [stage] = study.stages(Trial(0, choice, 1))
        assert study.budget - stage.flops_per_step < stage.flops <= study.budget
        config = stage.config
        assert isinstance(config, TokenizerRunConfig) and config.train.seed == 1
        steps[choice["width"]] = config.train.steps
        share = config.train.steps / 100
        assert config.codebook.start_step == round(4 * share) and config.optim.warmup_steps == round(4 * share)
        assert config.train.checkpoint_every == config.train.validate_every == config.train.steps // REPORTS
    assert steps["32"] > steps["64"] == 100 > steps["96"]


def test_a_budget_may_be_given(with_sweep: WithSweep, study: Study) -> None:
    twice = with_sweep(flops=2 * study.budget)
    choice = study.sweep.grid()[1]
    # Not 200: its 16 codes are fitted with fewer products than the 64 of the preset, which sets the budget.
    assert twice.stages(Trial(0, choice, 0))[0].config.train.steps == 204
    with pytest.raises(ValueError, match=r"codes: 16, width: 64: flops, seconds: the budget of a trial is 2 steps"):
        with_sweep(flops=study.budget / 50).check([choice])


def test_a_budget_of_seconds_becomes_steps_by_a_short_training(
    with_sweep: WithSweep, train_here: Callable[[Plan], None]
) -> None:
    study = with_sweep(seconds=20.0)
    [stage] = study.stages(Trial(0, study.sweep.grid()[0], 0))
    pace = stage.pace()
    assert pace.config.train.steps == PACE_STEPS and pace.folder != stage.plan.folder
    train_here(pace)
    lines = read_metrics(Path(pace.folder), "train")
    assert len(lines) == PACE_STEPS
    assert [line["step"] for line in read_metrics(Path(pace.folder), "valid")] == [PACE_STEPS], "no step is disturbed"
    in_all = stage.in_seconds(20.0).config.train.steps
    assert in_all == int(20.0 / median(line["step_seconds"] for line in lines[PACE_STEPS // 2 :])) > 20
    with pytest.raises(ValueError, match=r"the budget of a trial is 0 steps, at least 9 are needed"):
        stage.in_seconds(1e-6)


def test_what_a_training_has_noted_beyond_a_step(study: Study) -> None:
    [stage] = study.stages(Trial(0, study.sweep.grid()[0], 0))
    assert list(stage.measured(0)) == [], "nothing was begun"
    folder = Path(stage.plan.folder)
    folder.mkdir(parents=True)
    born = stage.born
    lines: list[dict[str, object]] = [{"kind": "valid", "step": born - 1, "mse": 0.0, "mae": 0.0}]
    for k, mse in enumerate((4.0, 2.0, 3.0)):
        lines.append({"kind": "train", "step": born + 10 * k, "step_seconds": 0.5})
        lines.append({"kind": "valid", "step": born + 10 * k + 1, "mse": mse, "mae": mse + k, "usage": 1.0})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    first, second, third = stage.measured(0)
    assert first == {"step": born + 1, "seconds": born * 0.5, "mse": 4.0, "mae": 4.0}
    assert second == {"step": born + 11, "seconds": (born + 10) * 0.5, "mse": 2.0, "mae": 3.0}
    assert third == second | {"step": born + 21, "seconds": (born + 20) * 0.5}, "the best weights are those before"
    assert list(stage.measured(born + 10)) == [second | {"seconds": 0.0}, third | {"seconds": 5.0}]


def test_the_best_weights_of_what_was_noted_are_those_of_the_run(
    study: Study, with_sweep: WithSweep, short_pictures: str, tmp_path: Path
) -> None:
    """An autoregressor's have the least loss, whatever its cross-entropy; with an adversary they are the newest."""
    against = with_sweep(settings=study.sweep.settings | {"tokenizer.adversary.weight": 0.3})
    [tokenizer] = against.stages(Trial(0, study.sweep.grid()[0], 0))
    both = Sweep("both", {"codes": choices("tokenizer.tokenizer.codebook_size", 512, 1024)})
    _, autoregressor = Study(both, short_pictures, tmp_path / "both").stages(Trial(0, {"codes": "512"}, 0))

    def found(stage: Stage, name: str, *lines: dict[str, float]) -> list[float]:
        path = Path(stage.plan.folder) / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        steps = range(stage.born + 10, stage.born + 40, 10)
        noted = [{"kind": "valid", "step": step} | line for step, line in zip(steps, lines, strict=True)]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in noted))
        return [figures[name] for figures in stage.measured(0)]

    errors = ({"mse": 2.0, "mae": 2.0}, {"mse": 4.0, "mae": 4.0}, {"mse": 3.0, "mae": 3.0})
    assert found(tokenizer, "mse", *errors) == [2.0, 4.0, 3.0]
    nats = [{"loss": loss, "cross_entropy": nat} for loss, nat in ((2.0, 2.5), (1.5, 2.6), (1.6, 2.4))]
    assert found(autoregressor, "cross_entropy", *nats) == [2.5, 2.6, 2.6]


def test_the_optimizer_and_the_adversary_count(study: Study, with_sweep: WithSweep) -> None:
    """At equal cost who has them makes fewer steps, and the fewer the smaller its batch."""
    choice = study.sweep.grid()[1]

    def step_flops(**settings: object) -> float:
        named = {f"tokenizer.{name.replace('__', '.')}": value for name, value in settings.items()}
        [stage] = with_sweep(settings=study.sweep.settings | named).stages(Trial(0, choice, 0))
        return stage.flops_per_step

    plain, muon = (step_flops(optim__optimizer=name) for name in ("adamw", "muon"))
    assert muon > 1.1 * plain
    assert step_flops(train__batch_size=8) == pytest.approx(2 * plain)
    assert step_flops(optim__optimizer="muon", train__batch_size=8) - muon == pytest.approx(plain)
    early, late = (step_flops(adversary__weight=0.3, adversary__start=start) for start in (0.0, 0.5))
    assert early - plain == pytest.approx(2 * (late - plain)) and early > 1.1 * plain


def test_both_stages_share_a_budget_as_the_presets_do(short_pictures: str, tmp_path: Path) -> None:
    space = {"codes": choices("tokenizer.tokenizer.codebook_size", 512, 1024)}
    study = Study(Sweep("both", space), short_pictures, tmp_path)
    first, second = study.stages(Trial(3, {"codes": "1024"}, 0))
    assert (first.config.train.steps, second.config.train.steps) == (1400, 2400)
    assert first.share + second.share == 1 and first.flops + second.flops == pytest.approx(study.budget)
    assert second.plan.tokenizer == first.plan.folder and second.plan.data == f"{tmp_path}/trials/003-seed-0/codes"
    name, factor = second.figures["bits_per_second_sample"]
    assert name == "cross_entropy" and factor == pytest.approx(95 / log(2) / 4)


def test_an_autoregressor_has_the_tokenizer_that_it_is_given(
    trained_tokenizer: Plan, short_codes: str, short_pictures: str, tmp_path: Path
) -> None:
    sweep = Sweep("autoregressor", {"lr": choices("autoregressor.optim.lr", 0.1, 0.2)}, "debug")
    with pytest.raises(ValueError, match=r"--tokenizer: the sweep trains autoregressors alone: give --tokenizer and"):
        Study(sweep, short_pictures, tmp_path)
    study = Study(sweep, short_pictures, tmp_path, tokenizer=trained_tokenizer.folder, codes=short_codes)
    study.check(sweep.grid())
    [stage] = study.stages(Trial(0, {"lr": "0.1"}, 0))
    assert stage.plan.data == short_codes and stage.plan.tokenizer == trained_tokenizer.folder
    assert study.facts(Trial(0, {"lr": "0.1"}, 0))["codes"] == 11
    codes = Sweep("autoregressor", {"codes": choices("tokenizer.tokenizer.codebook_size", 16, 32)})
    with pytest.raises(ValueError, match=r"space: tokenizer\.tokenizer\.codebook_size is up to --tokenizer"):
        replace(study, sweep=codes)
    with pytest.raises(ValueError, match=r"--tokenizer: the sweep trains tokenizers of its own: leave out"):
        replace(study, sweep=Sweep("both", codes.space))


def test_fewer_settings_are_the_first_of_more(study: Study) -> None:
    all_of_them = draw(study, 9)
    assert draw(study, 4) == all_of_them[:4]
    assert sorted(all_of_them, key=str) == sorted(study.sweep.grid(), key=str)
    trials = study.trials(enumerate(all_of_them[:2]))
    assert [trial.name for trial in trials] == ["000-seed-0", "001-seed-0", "000-seed-1", "001-seed-1"]


def test_what_settings_have_in_common_is_looked_at_once(
    study: Study, with_sweep: WithSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space may have ten thousand of them, data may be far away, and to count FLOPs takes a quarter of a second."""
    loaded, load = list[str](), DatasetInfo.load
    monkeypatch.setattr(DatasetInfo, "load", lambda folder: loaded.append(folder.name) or load(folder))
    counted_tokenizer.cache_clear()
    rates = {"rate": choices("tokenizer.optim.lr", 1e-4, 2e-4, 3e-4), **study.sweep.space}
    several = with_sweep(space=rates)
    several.check(several.sweep.grid())
    assert len(several.sweep.grid()) == 27 and loaded == [study.data]
    assert counted_tokenizer.cache_info().misses == 9


def test_records_are_read_together(study: Study, ended: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial whose folder is there and whose record is not has not been begun."""
    for trial in study.trials(enumerate(draw(study, 3)))[:3]:
        ended(Records(study), trial)
    (Path(study.out) / "trials" / "003-seed-0").mkdir()
    met, read = Barrier(3), records.read_record

    def once_all_are_asked(folder: Folder) -> Record:
        if not folder.name.endswith("003-seed-0"):
            met.wait(20)
        return read(folder)

    monkeypatch.setattr(records, "read_record", once_all_are_asked)
    assert [record.trial.place for record in Records(study)] == [0, 1, 2]


def test_mistakes_are_told_before_anything_runs(study: Study, with_sweep: WithSweep) -> None:
    with pytest.raises(ValueError, match=r"spectrogram\.num_samples: 64000 is asked for, the data set was made with"):
        make_search(None, with_sweep(settings={}), None, Records(study))
    with pytest.raises(ValueError, match=r"--workers: 0 must be at least 1"):
        replace(study, workers=0)
    with pytest.raises(ValueError, match=r"train\.batch_size: 4 rows are too few for 5 workers"):
        make_search(None, replace(study, workers=5), None, Records(study))
    rows = Sweep("both", {"rows": choices("autoregressor.train.batch_size", 1, 4)}, "debug", study.sweep.settings)
    with pytest.raises(ValueError, match=r"rows: 1: train\.batch_size: 1 rows are too few for 2 workers"):
        make_search(None, replace(study, sweep=rows, workers=2), None, Records(study))
    with pytest.raises(ValueError, match=r"--search optuna: say with --trials how many of the 9 settings it may try"):
        make_search("optuna", study, None, Records(study))
    with pytest.raises(ValueError, match=r"--search grid: tries all 9 settings: leave out --trials, or choose random"):
        make_search("grid", study, 4, Records(study))
    assert not Path(study.out).exists()


@pytest.mark.parametrize(
    "space, told",
    [
        ({"rate": choices("autoregressor.optim.lr", 0.1, 0.2)}, r"rate: 0\.[12] and rate: 0\.[12] are"),
        (
            {part: choices("tokenizer.optim.lr", 0.1, 0.2) for part in "ab"},
            r"a: 0\.[12], b: (0\.[12]) and a: 0\.[12], b: \1",
        ),
    ],
)
def test_choices_that_make_no_difference_are_no_settings_to_compare(
    space: dict[str, Choices], told: str, with_sweep: WithSweep
) -> None:
    """Of the other stage, or overwritten by another part: the table would tell of differences between seeds alone."""
    study = with_sweep(space=space)
    with pytest.raises(
        ValueError, match=rf"space: {told}.* one and the same training of kind tokenizer: leave out what"
    ):
        make_search(None, study, None, Records(study))


def test_a_folder_holds_one_sweep(study: Study, with_sweep: WithSweep, ended: Callable[..., object]) -> None:
    ended(Records(study), study.trials(enumerate(draw(study, 1)))[0])
    assert len(list(Records(with_sweep(seeds=(0, 1, 2))))) == 1
    with pytest.raises(
        ValueError, match=rf"{study.out}: holds a sweep with flops = None, not 1000000000000\.0: use its settings"
    ):
        Records(with_sweep(flops=1e12))


def test_a_choice_that_was_tried_may_not_go(study: Study, with_sweep: WithSweep, ended: Callable[..., object]) -> None:
    """Nor any of its settings: what was trained with them would be told as something else, or by no name at all."""
    ended(Records(study), study.trials(enumerate(draw(study, 1)))[0])
    codes, width = study.sweep.space.values()
    fewer = {label: settings for label, settings in codes.items() if label != "32"}
    with pytest.raises(
        ValueError, match=r"space\.codes\.32 = \{'tokenizer.tokenizer.codebook_size': 32\}, not None: use"
    ):
        Records(with_sweep(space={"codes": fewer, "width": width}))
    with pytest.raises(ValueError, match=r"space\.codes = \{.*\}, not None: use its settings"):
        Records(with_sweep(space={"width": width}))
    with pytest.raises(ValueError, match=r"space\.codes\.32\.tokenizer\.tokenizer\.codebook_size = 32, not None: use"):
        Records(with_sweep(space={"codes": codes | {"32": {}}, "width": width}))
