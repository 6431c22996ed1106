"""Hand trackers: `<name>_option.py` is the configuration node of `hand=<name>`, the modules that it imports are its implementation.

All return arrays in MANO-21 order (`tracks`). Nothing is imported here: `config.py` imports the nodes.
"""
