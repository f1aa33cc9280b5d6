"""The fixtures that several test files share."""

from class_kit import class_dir, nginx

__all__ = ["class_dir", "nginx"]
