"""Prepare a sequence: `python launch.py stage=all seq=bottle video=clip.mp4`; `python launch.py --help` tells the rest."""

from holdprep.cli import main

if __name__ == "__main__":
    main()
