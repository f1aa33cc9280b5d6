"""Measuring: `python -m helpers.authoring.report cpu` (`make bench`) and `… gpu` (`make gpu-report`)."""
