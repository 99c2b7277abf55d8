"""Ctrl-C while Ray trains, at the moment at which the controller is lost before Ray's handler has exited."""

import os
import signal

import pytest
from ray.exceptions import ActorDiedError

from mars_dist.distributed.train import stopped_by_ctrl_c
from mars_dist.errors import TrainingFailed


@pytest.mark.parametrize("pressed, told", [(True, KeyboardInterrupt), (False, TrainingFailed)])
def test_a_lost_controller_is_what_ctrl_c_wants_and_a_failure_else(pressed: bool, told: type[BaseException]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(told), stopped_by_ctrl_c():
        signal.signal(signal.SIGINT, lambda number, frame: None)  # as Ray's: it does not raise
        if pressed:
            os.kill(os.getpid(), signal.SIGINT)
        raise ActorDiedError()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_exit_by_rays_handler_is_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), stopped_by_ctrl_c():
        raise SystemExit(0)
