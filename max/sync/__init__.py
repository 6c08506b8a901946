"""What a sync does: its task graph, its tasks, the calls of loaders, pagination, events.

``storage/``, ``installations/`` and execution.py, its face, may not be imported here: a sync reads
and writes through the protocols of core.py.  Every part is needed; none is optional.
"""
