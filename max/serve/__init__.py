"""Answers for programs that run beside Max and ask over a connection: the Model Context Protocol.

It reads through Readers and never prints: a connection's own stream carries messages alone.  What
needs an event loop (a sync) is handed in by the command that serves.  Nothing imports it that only reads.
"""
