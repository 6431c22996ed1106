"""Rendered sequences with exact ground truth, and ground truth with one known error at a time."""
