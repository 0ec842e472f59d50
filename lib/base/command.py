"""What every command does around its work: faults become one line and an exit status."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

from lib.base import distributed
from lib.base.errors import InputError


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; what the user can mend is said in a line, with exit status 2.

    Of several processes, the first one that has something to say against going on says it, and the
    others end too.
    """
    try:
        main()
        sys.stdout.flush()
        distributed.end()
    except InputError as error:
        _leave(str(error))
    except BrokenPipeError:  # who reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            _leave(f"{error.filename or 'the disk'}: {error.strerror}")
        distributed.first_to_tell()  # so that the traceback is all that is said
        raise
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            distributed.first_to_tell()
            raise
        _leave(f"TRAIN.DETERMINISTIC: on this device {str(error).split(',')[0]}")
    except KeyboardInterrupt:
        if distributed.first_to_tell():
            print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _leave(message: str) -> None:
    lines = message.splitlines() or [""]
    if distributed.first_to_tell():
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
