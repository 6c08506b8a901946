"""Data without I/O: what connectors declare, what callers ask for, what a sync remembers.

Only ``errors`` may be imported here: no file, clock, thread, event loop or database.  Its face
is core.py.  Every part is needed; none is optional.
"""
