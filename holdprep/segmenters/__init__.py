"""Segmenters: `<name>_option.py` is the configuration node of `segmenter=<name>`, the modules that it imports are its implementation.

Nothing is imported here: `config.py` imports the nodes.
"""

ENTITIES = ("right", "left", "object")
