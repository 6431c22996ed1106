"""Terms of the registration: one file per term, each with a function that creates it from targets, masks or the current state.

Terms are weighted by their noise, in their own unit, so that the objective is a negative log-likelihood. A new term is a file here and a
line in `holdprep.hand.registration`: in `_measurements` (fixed targets) or `_correspondences` (updated ones).
"""
