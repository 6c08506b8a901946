"""Where Max keeps what belongs to a user of this machine and to no project: trust, daemons.

Only ``os`` is imported until more is needed: the command line looks here for a daemon before it
imports anything else.
"""

from __future__ import annotations

import os
import sys

HOME = "MAX_HOME"  # where it is, in place of the platform's folder for user data


def home_folder() -> str:
    """The absolute path of the folder, which need not exist; ProjectError when there is no place for it."""
    given = os.environ.get(HOME)
    home = os.path.expanduser(given) if given else platform_folder()
    if not os.path.isabs(home):  # a path from the current folder could lead into a cloned project
        from ..errors import ProjectError

        raise ProjectError(
            f"there is no folder for what Max keeps for this user: {home!r} is not an absolute path",
            hint=f"set {HOME} to a folder",
        )
    return home


def platform_folder() -> str:
    """The platform's folder for user data: what ``platformdirs`` says, which Linux needs no library for."""
    if sys.platform != "linux":
        try:
            from platformdirs import user_data_dir

            return user_data_dir("max", appauthor=False)
        except ImportError:  # a vendored copy with nothing installed
            pass
    data = os.environ.get("XDG_DATA_HOME", "")
    return os.path.join(data if data.strip() else os.path.expanduser("~/.local/share"), "max")
