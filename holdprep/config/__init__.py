"""The typed configuration: schema, validation of command lines, and stored settings of a sequence."""
