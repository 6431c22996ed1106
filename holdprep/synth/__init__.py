"""Rendered sequences with exact ground truth, and ground truth with known errors."""
