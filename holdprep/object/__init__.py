"""The object: poses and sparse cloud from the video."""
