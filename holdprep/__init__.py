"""holdprep: from a phone video of a hand holding an object to a sequence that HOLD can train on."""

__version__ = "0.2.0"
