"""Finding, configuring and connecting installations.

``project_folder`` and what it needs (``files``, ``credential_file``) import neither asyncio nor a
connector, since every command reads them; ``registry`` finds connectors; ``config``,
``onboarding`` and ``secret_sources`` are needed to connect only.  Nothing of storage, sync or
query may be imported here: this folder knows where a database is, not what it holds.
"""
