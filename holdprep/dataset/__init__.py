"""HOLD's training data: writing it, and reading it back as the trainer does."""
