"""What is tried next: nothing twice, and with Optuna what promises more."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mars_dist.sweeps import choices
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.search import Search, make_search
from mars_dist.sweeps.study import TRIALS, Study, Trial

Ended = Callable[..., Record]


def run(search: Search, records: Records, ended: Ended, num: int = 99) -> list[Trial]:
    """Every trial ends with a score that a code's width and a codebook give it."""
    done: list[Trial] = []
    while len(done) < num and (trial := search.next()):
        score = abs(int(trial.choice["codes"]) - 64) + abs(int(trial.choice["width"]) - 32) + 0.1 * trial.seed
        search.tell(ended(records, trial, score=score))
        done.append(trial)
    return done


@pytest.mark.parametrize("name, num", [(None, None), ("grid", None), ("random", 5), ("optuna", 5)])
def test_a_sweep_that_is_broken_off_tries_the_rest(study: Study, ended: Ended, name: str, num: int | None) -> None:
    first = run(make_search(name, study, num, records := Records(study)), records, ended, num=7)  # type: ignore[arg-type]
    begun = Trial(**vars(first[-1]) | {"seed": 1 - first[-1].seed})
    again = Records(study)
    search = make_search(name, study, num, again)  # type: ignore[arg-type]
    assert not search.ended
    rest = run(search, again, ended)
    names = [trial.name for trial in first + rest]
    assert len(names) == len(set(names)) == 2 * (num or 9) and begun.name in names
    settings = {trial.place: trial.choice for trial in first + rest}
    assert len({str(choice) for choice in settings.values()}) == num or 9
    assert make_search(name, study, num, Records(study)).ended  # type: ignore[arg-type]


@pytest.mark.parametrize("first, then", [("optuna", None), (None, "optuna"), ("random", "grid")])
def test_another_search_tries_what_the_first_one_did_not(
    study: Study, ended: Ended, first: str | None, then: str | None
) -> None:
    """The choices stand in another order by then."""
    records = Records(study)
    tried = run(make_search(first, study, 4, records), records, ended, num=7)  # type: ignore[arg-type]
    space = {part: dict(reversed(choices.items())) for part, choices in study.sweep.space.items()}
    same = replace(study, sweep=replace(study.sweep, space=space))
    records = Records(same)
    num = 9 if then == "optuna" else None
    search = make_search(then, same, num, records)  # type: ignore[arg-type]
    rest = run(search, records, ended)
    assert len({trial.name for trial in tried + rest}) == len(tried + rest) == 18
    assert len({(tuple(sorted(trial.choice.items())), trial.seed) for trial in tried + rest}) == 18


def test_a_trial_whose_folder_was_deleted_is_run_again(study: Study, ended: Ended) -> None:
    records = Records(study)
    run(make_search(None, study, None, records), records, ended)
    study.home.sub(TRIALS).delete_folder("003-seed-0")
    for name, num in ((None, None), ("optuna", 9)):
        search = make_search(name, study, num, Records(study))  # type: ignore[arg-type]
        assert search.next() == records.by_name["003-seed-0"].trial and search.ended


def test_what_was_begun_is_finished_first(study: Study, ended: Ended) -> None:
    """Optuna asks for both seeds of a setting in a row: a kill lies between them."""
    records = Records(study)
    [only] = run(make_search("optuna", study, 4, records), records, ended, num=1)
    again = Records(study)
    following = make_search("optuna", study, 4, again).next()
    assert following == replace(only, seed=1)


def test_optuna_learns_from_what_was_tried(study: Study, ended: Ended) -> None:
    """Of 121 settings it tries 30, better ones than chance would, and finds the best."""
    space = {
        "codes": choices("tokenizer.tokenizer.codebook_size", *range(14, 65, 5)),
        "width": choices("tokenizer.tokenizer.width", *range(32, 353, 32)),
    }
    of = replace(study, sweep=replace(study.sweep, space=space, seeds=(0,), flops=1e13))
    records = Records(of)
    run(make_search("optuna", of, 30, records), records, ended)
    scores = [record.score["mse_reconstruction"] for record in records]
    assert len({str(record.trial.choice) for record in records}) == 30
    assert sum(scores) / 30 < 0.8 * 185, "which is the mean of all"
    assert min(scores) == 0


def test_optuna_learns_from_what_was_stopped(study: Study, ended: Ended) -> None:
    """Only the best third of them ends, fewer than it draws at first: it tries better ones from then on even so."""
    space = {
        "codes": choices("tokenizer.tokenizer.codebook_size", *range(14, 65, 5)),
        "width": choices("tokenizer.tokenizer.width", *range(32, 353, 32)),
    }
    of = replace(study, sweep=replace(study.sweep, space=space, seeds=(0,), flops=1e13))
    records, scores = Records(of), list[int]()
    search = make_search("optuna", of, 30, records)
    while trial := search.next():
        score = abs(int(trial.choice["codes"]) - 64) + abs(int(trial.choice["width"]) - 32)
        behind = sum(other < score for other in scores) > len(scores) / 3
        search.tell(ended(records, trial, "stopped" if behind else "finished", score))
        scores.append(score)
    assert sum(scores[10:]) / 20 < 0.8 * 185, "which is the mean of all"


def test_several_metrics_at_once(study: Study, ended: Ended) -> None:
    of = replace(study, sweep=replace(study.sweep, metrics=("mse_reconstruction", "pitch_accuracy_reconstruction")))
    records = Records(of)
    search = make_search("optuna", of, 5, records)
    search.tell(ended(records, search.next(), "stopped"))
    assert len(run(search, records, ended)) == 9


def test_failed_and_stopped_trials_are_told_too(study: Study, ended: Ended) -> None:
    records = Records(study)
    search = make_search("optuna", study, 5, records)
    statuses = iter(["failed", "finished", "stopped", "stopped"])
    while trial := search.next():
        search.tell(ended(records, trial, next(statuses, "finished")))
    assert [record.status for record in records][:4] == ["failed", "finished", "stopped", "stopped"]
    assert search.ended


def test_seeds_that_end_together_are_told_once(study: Study, ended: Ended) -> None:
    """A record is over with its last report; Ray says a little later that its trial is."""
    records = Records(study)
    search = make_search("optuna", study, 5, records)
    pair = [trial for _ in range(2) if (trial := search.next())]
    assert pair[0].place == pair[1].place
    for record in [ended(records, trial) for trial in pair]:
        search.tell(record)
    assert search.next() is not None
