"""Execution of the stage graph: stages (stage), what is up to date (state, plan), records of runs (records, exchange), the run (runner)."""

from holdprep.pipeline.stage import Context, Metrics, Result, Stage, Standing, deferred

__all__ = ["Context", "Metrics", "Result", "Stage", "Standing", "deferred"]
