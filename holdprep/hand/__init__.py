"""Hands: model, registration, trackers."""

from pathlib import Path

STANDIN_FILE = Path(__file__).parent / "assets" / "standin_right.npz"
