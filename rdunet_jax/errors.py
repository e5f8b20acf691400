"""The errors that a user's settings, files or folders can cause. A command prints them as one line, with status 2."""

from data_pipeline.errors import InputError

__all__ = ["InputError", "RunError"]


class RunError(InputError):
    """A run cannot be started, continued or used. The message is one line that names the cause and says what to do."""
