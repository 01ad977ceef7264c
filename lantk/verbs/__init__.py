"""The verbs of the command line: each parses nothing, loads, calls one function, saves."""
