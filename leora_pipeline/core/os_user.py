"""Who runs this process: recorded with what a person decides."""

from __future__ import annotations

import getpass
import os
import socket


def os_user() -> str:
    """Returns the operating system's user, and where: ``ann@desk``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
