"""The errors that helpers raise. Each message says what happened and what the reader does next."""

__all__ = [
    "BenchmarkError", "ConfigError", "DownloadError", "MirrorError", "ModelError", "ServerError", "TutorialError",
]  # fmt: skip


class TutorialError(Exception):
    """Base class of every error raised on purpose by `helpers`."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence. The frames lead nowhere, for nothing is wrong with the code."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(TutorialError):
    """An environment variable or argument has a value that the course cannot use."""


class ModelError(TutorialError):
    """A model folder is missing, incomplete or not what was expected."""


class DownloadError(TutorialError):
    """A download did not end with a whole model on disk."""


class MirrorError(TutorialError):
    """The mirror that hands out models to a class cannot start."""


class ServerError(TutorialError):
    """A vLLM server did not start, answered wrongly, or did not stop."""


class BenchmarkError(TutorialError):
    """A benchmark run failed, or its result file does not hold the expected fields."""
