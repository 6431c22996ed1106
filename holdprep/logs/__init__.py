"""Loggers: what a run leaves in CSV files, TensorBoard and W&B, with one spelling of every number."""
