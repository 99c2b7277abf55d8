"""What a user is told in one line, besides ValueError for what the user can mend."""


class TrainingFailed(RuntimeError):
    """Training ended for a reason that is not a mistake in the call."""
