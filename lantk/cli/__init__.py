"""The command line: each verb reads, loads, calls one function and saves."""
