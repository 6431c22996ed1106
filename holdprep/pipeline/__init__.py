"""The stage graph at work: what a stage is (stage), what is up to date (state, plan), what is kept of every run (records, exchange), and the
run itself (runner)."""

from holdprep.pipeline.stage import Context, Metrics, Result, Stage, Standing, deferred

__all__ = ["Context", "Metrics", "Result", "Stage", "Standing", "deferred"]
