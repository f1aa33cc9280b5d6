"""The fixtures that several test files share."""

from class_kit import class_dir, nginx
from server_kit import kernel, make, model

__all__ = ["class_dir", "kernel", "make", "model", "nginx"]
