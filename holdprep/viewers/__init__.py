"""Views of a sequence in 3D: one description of the scene, shown by a self-contained page, viser, rerun or aitviewer."""
