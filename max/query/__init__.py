"""An installation's database without an event loop: the Reader, and the writes that need no sync.

Needs storage and model alone: no connector and no network may be imported here, and asyncio only inside
of a function, because every reading command would pay for it.
"""
