"""One module a group of commands: ``COMMANDS`` in cli.py says which.

A command parses words, makes a call of a lower layer and returns an Answer.  It knows no SQL and no
connection, and asks ``console``, not its process, for streams and environment: it may run in a daemon.
"""
