"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Input that cannot be used. The message is one line that names the file or folder and says what to do."""
