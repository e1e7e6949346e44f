"""What a user did wrong, in one sentence."""

from collections.abc import Iterable


class Refusal(ValueError):
    """Bad input of any kind.

    Its message is one clear sentence that names what was found, what was wanted and the remedy. The command line
    prints it and exits with status 2; nothing half-written is left behind.
    """


def check_name(what: str, name: str, names: Iterable[str]) -> None:
    """Refuse a name that is none of some names; `what` says of what it is one."""
    if name not in (names := tuple(names)):
        raise Refusal(f"There is no {what} {name!a}; choose one of {', '.join(names)}.")
