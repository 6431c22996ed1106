"""What a registration measures: one file a term, each with a function that makes it from targets, masks or the present state.

Terms are weighed by their noise, in their own unit, so that the objective is a negative log-likelihood. A new measurement is a file here and
a line in `measurements` (fixed targets) or in `holdprep.hand.registration` (correspondences that are sought anew).
"""
