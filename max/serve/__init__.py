"""Answers for other programs, and what works for a project while no command runs.

The methods (``methods``) are answered on sockets, pipes and HTTP, for programs, and as tools over MCP, for
agents.  Beside them are what a daemon is made of, the processes of installations, schedules and fleets.
Commands and daemon.py import it, and ``Project.serve`` when it is called; nothing that only reads does.
"""
