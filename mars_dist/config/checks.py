"""Checks that several settings share."""

DEEPEST = 1000


def require_positive(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for the first of the fields that is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must be above 0")


def require_depth(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for more layers than anyone trains; settings may come from anywhere."""
    for name in names:
        if not 0 <= getattr(settings, name) <= DEEPEST:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must lie between 0 and {DEEPEST}")


def require_share(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for the first of the fields that is no share of 1."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must lie between 0 and 1")


def require_not_negative(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for the first of the fields that is below 0."""
    for name in names:
        if not getattr(settings, name) >= 0:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must be 0 or more")
