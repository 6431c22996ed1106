"""A Slurm of one node on this machine, from Debian's packages (apt-get install slurm-wlm munge), for `tests/slurm/test_slurm.py`."""
