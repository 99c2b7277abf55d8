"""When an error that ends a worker again and again is given up."""

from pathlib import Path

from mars_dist.distributed.train import ALIKE, forget_failures, note_failure, repeated_failure


def test_an_error_that_comes_again_with_nothing_saved_is_given_up(tmp_path: Path) -> None:
    for _ in range(ALIKE):
        assert repeated_failure(tmp_path) is None
        note_failure(tmp_path, 1, "no memory left", num_saved=0)
        note_failure(tmp_path, 0, f"connection closed by peer :{_}", num_saved=0)
    found = repeated_failure(tmp_path)
    assert found is not None and found.endswith(f"failed {ALIKE} times alike: no memory left")
    forget_failures(tmp_path)
    assert repeated_failure(tmp_path) is None


def test_what_saved_something_in_between_is_tried_for_ever(tmp_path: Path) -> None:
    for num_saved in (0, 0, 1, 0, 3, 0):
        note_failure(tmp_path, 0, "a store that is away", num_saved)
        assert repeated_failure(tmp_path) is None
