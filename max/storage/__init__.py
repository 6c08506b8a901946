"""Everything that writes or reads SQL.

It is synchronous, on connections that a Database gives; database.py says what each kind of database must
offer, and the words of one are in the modules that have its name.  Nothing of ``sync/`` or ``upstream/``
may be imported here.  Optional are Postgres, Arrow, full text, the change log and the audit log.
"""
