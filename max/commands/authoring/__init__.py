"""Helps authors of connectors: what is wrong with one, and a first version of a new one.

Nothing of Max needs these modules but ``max connector check`` and ``max connector new``, which import them
when they run.  They make no request, and read no other file than those that they are given.
"""
