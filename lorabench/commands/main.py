"""Parses what a user typed and hands it to the command, whose file parser.COMMANDS names.

Exit codes: 0 done; 1 a cell did not finish, or the report could not be written; 2 a mistake that the user can mend;
130 Ctrl-C, 143 SIGTERM. `check` answers by them: 0 fits, 1 does not, 3 cannot be told.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from lorabench import startup
from lorabench.commands.output import say
from lorabench.commands.parser import make_parser
from lorabench.commands.run import Terminated
from lorabench.errors import LorabenchError

MENDABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)


def entry() -> NoReturn:
    """The command lorabench."""
    startup.settle()
    startup.leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs one command, and turns what a user can mend into one sentence."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(argv)
    try:
        code = options.function(options)
        sys.stdout.flush()
        return code
    except LorabenchError as e:
        return say(str(e), 2)
    except BrokenPipeError:  # `lorabench status DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 141  # what a shell shows for SIGPIPE
    except OSError as e:
        if e.errno not in MENDABLE or e.filename is None:
            raise
        name = str(e.filename)
        return say(f"{name if len(name) < 300 else name[:100] + '...'}: the system answers '{e.strerror}'", 2)
    except KeyboardInterrupt as e:
        code = e.code if isinstance(e, Terminated) else 130
        again = (
            f"; what has finished is kept; the same command continues from there: {shlex.join(['lorabench', *argv])}"
        )
        return say("stopped" + (again if argv[:1] == ["run"] and "--dry-run" not in argv else ""), code)
