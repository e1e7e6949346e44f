"""What a user did wrong, in one sentence."""


class Refusal(ValueError):
    """Bad input of any kind.

    Its message is one clear sentence that names what was found, what was wanted and the remedy. The command line
    prints it and exits with status 2; nothing half-written is left behind.
    """
