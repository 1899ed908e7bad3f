"""Shared parts of the commands: exit codes, errors as one line, printing."""

import errno
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperGroup

from ablations.errors import UsageError, VitabError

if TYPE_CHECKING:
    from rich.console import Console

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

NAME_FAILS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)
"""Errors of a file that was named, raised where commands look whether it is there."""
OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


class Commands(TyperGroup):
    """A group of commands whose errors are one line on stderr: exit code 2 for bad input, 1 for other errors."""

    def main(  # type: ignore[override]
        self, args: list[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        if sys.platform == "win32":  # leases probe processes with signal 0, which terminates them on Windows
            stop(
                "vitab runs on Linux and macOS; on Windows, use it in WSL (https://learn.microsoft.com/windows/wsl)",
                USAGE,
            )
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            code = super().main(arguments, standalone_mode=False, obj=arguments, **extra)
        except UsageError as error:
            stop(str(error), USAGE)
        except VitabError as error:
            stop(str(error), FAILED)
        except KeyboardInterrupt:
            stop("interrupted", INTERRUPTED)
        except OSError as error:
            if error.filename is not None and error.errno in NAME_FAILS:
                stop(f"cannot access {os.fsdecode(error.filename)}: {error.strerror}", USAGE)
            if error.filename is not None or error.errno not in OUTPUT_FAILS:
                raise
            stop(f"cannot write the output: {error.strerror}; finished runs are kept", FAILED)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            stop(error.format_message(), USAGE)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else OK)
        return code


def stop(message: str, code: int) -> NoReturn:
    """Print one line to stderr and end the program."""
    from ablations.config.safe_text import one_line

    typer.echo(f"error: {one_line(message)}", err=True)
    try:
        sys.stdout.flush()
    except OSError:  # what is left to say cannot be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def echo(text: object, *, err: bool = False) -> None:
    """Print one line of plain text, with control characters as escapes."""
    from ablations.config.safe_text import visible

    typer.echo(visible(text), err=err)


def runs_option(root: Path) -> str:
    """Return the option that names a folder of runs in a command, with a space before it; empty for the default."""
    return "" if root == Path("runs") else f" --runs {shlex.quote(str(root))}"


def console() -> "Console":
    """Return the console for tables and lines."""
    from rich.console import Console

    return Console()
