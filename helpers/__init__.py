"""What the notebooks share: processes, ports, checks, parsing and plots, so that each lesson's own subject
stays in its cells. Importing this package loads neither torch nor vLLM."""

from helpers.config import Profile, get_profile
from helpers.errors import TutorialError

__all__ = ["Profile", "TutorialError", "get_profile"]
