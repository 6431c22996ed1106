"""Sweeps: summary table, search over weights, one trial of a search."""
