"""HOLD's training data: writing, and reading as by the trainer."""
