"""The one error that a run's settings or folder can cause."""


class RunError(ValueError):
    """A run cannot be started, continued or used. The message is one line that names the cause and says what to do."""
