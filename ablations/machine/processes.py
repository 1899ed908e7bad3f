"""Other processes of this machine."""

import os
import subprocess


def output(*command: str) -> str:
    """Return the output of a command; empty if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def exists(pid: int) -> bool:
    """Return whether a process with this number exists on this machine, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
