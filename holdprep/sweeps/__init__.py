"""Sweeps: the table that closes one, the search over weights, one trial of it."""
