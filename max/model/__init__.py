"""Data without I/O."""
