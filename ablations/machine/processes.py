"""Other processes of this machine."""

import os
import subprocess


def output(*command: str) -> str:
    """What a command prints; empty when it is absent, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def exists(pid: int) -> bool:
    """Whether there is a process of this number here, of whatever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
