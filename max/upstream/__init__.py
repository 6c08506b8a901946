"""Everything outside of this process: operations and their limits, HTTP, credentials, recordings.

Connectors use these parts; nothing here knows a connector, a database or a sync.  Optional are
OAuth and the browser login (for services that need them), GraphQL, and recording and replay,
which a runtime uses only when it is given one.  HTTP needs the extra ``http``.
"""
