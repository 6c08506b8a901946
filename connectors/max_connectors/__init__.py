"""The connectors that come with Max: one module each, found by its name.

A module whose name begins with that of a connector and an underscore is a part of it:
``acme_service.py`` belongs to ``acme.py``.
"""
