"""The typed configuration: its schema, what is wrong with a command line, and what a sequence remembers."""
