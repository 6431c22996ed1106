"""Damaged files for every reader: `python -m tests.fuzz --inputs 20000 [READER ...]`; a part runs with the tests."""
