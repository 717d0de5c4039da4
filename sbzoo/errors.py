"""The error that is the user's to mend."""


class UserError(ValueError):
    """Bad input: shown as one clear message and a non-zero exit, without a traceback."""
