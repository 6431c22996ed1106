"""Accuracy and time on a fixed set of rendered sequences: `python -m tests.benchmarks [--quick] [--json FILE] [--compare OLD.json]`."""
