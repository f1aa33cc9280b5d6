"""Measuring: `python -m helpers.authoring.report cpu` (`make bench`), `… gpu` (`make gpu-report`) and `… notebooks`."""
