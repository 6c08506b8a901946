"""Where the installations of a project are kept: a folder, or a Postgres database.

``manager`` is what everything asks of a project, ``folder`` and ``database`` keep it, ``opening`` says
which of them a place leads to, and ``moving`` brings installations from one to the other.  Nothing of
``sync/`` or ``query/`` may be imported here; Postgres is optional.
"""
