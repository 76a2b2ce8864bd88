"""Every error that a user can cause. One base class, one exit code each, one clear sentence."""


class QvlError(Exception):
    """Base of all errors that are the input's fault: shown without a traceback."""

    exit_code = 1


class UsageError(QvlError):
    """A flag, argument or call that does not fit."""

    exit_code = 2


class RecipeError(QvlError):
    """An unknown key or an impossible value in a recipe."""

    exit_code = 3


class DataError(QvlError):
    """A sample, shard or document that can't be read or breaks a rule."""

    exit_code = 4


class ImageError(DataError):
    """An image that is missing, truncated, corrupt, empty or too large; `kind` names which, for counting."""

    exit_code = 5

    def __init__(self, message: str, kind: str = "broken image") -> None:
        super().__init__(message)
        self.kind = kind


class TextError(QvlError):
    """Text or token ids that the tokenizer or the markup can't read."""

    exit_code = 6


class CheckpointError(QvlError):
    """A checkpoint folder with missing, extra or misshapen parts."""

    exit_code = 7


class MissingDependencyError(QvlError):
    """An optional library or program is not installed; the message names the extra or package."""

    exit_code = 8


class TrainingError(QvlError):
    """A run that can't go on: every step is skipped, or another rank is gone."""

    exit_code = 9
