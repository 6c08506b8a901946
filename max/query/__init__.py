"""An installation's database without an event loop: the Reader, and the writes that need no sync.

Needs storage and model alone: no connector, no network and no asyncio may be imported here,
because every reading command would pay for it.
"""
