"""What a user is told in one line, besides ValueError for what the user can mend."""


class TrainingFailed(RuntimeError):
    """Training ended for a reason that is not a mistake in the call; to start it again would end the same way."""


class OutOfMemory(RuntimeError):
    """A GPU had no memory left in training. On one worker, while others wait for it: Ray has to end them."""


class Stopped(Exception):
    """SIGTERM came, and what was done is saved."""
