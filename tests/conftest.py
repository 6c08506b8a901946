"""What all tests share: drawn examples are the same in every run.

``HYPOTHESIS_PROFILE=explore`` draws new ones instead, to look for what nobody has thought of.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
