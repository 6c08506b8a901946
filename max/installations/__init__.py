"""Finding connectors, configuring and connecting installations, their files and secrets.

``files`` and ``credential_file`` import neither asyncio nor a connector, since every command reads
them; ``registry`` finds connectors; ``config``, ``onboarding`` and ``secret_sources`` are needed to
connect only.  Nothing of storage, sync or query may be imported here.
"""
