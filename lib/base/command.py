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
    """Run a script's ``main``; an error that the user can fix becomes a line and an exit status.

    Of several processes, only the first one that fails prints its message; the others end too.
    """
    try:
        main()
        sys.stdout.flush()
        distributed.end()
    except InputError as error:
        _exit_with(str(error), error.exit_status)
    except BrokenPipeError:  # who reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            _exit_with(f"{error.filename or 'the disk'}: {error.strerror}")
        distributed.first_to_report()  # the other processes then print nothing beside the traceback
        raise
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            distributed.first_to_report()
            raise
        _exit_with(f"TRAIN.DETERMINISTIC: on this device {str(error).split(',')[0]}")
    except KeyboardInterrupt:
        if distributed.first_to_report():
            print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _exit_with(message: str, status: int = InputError.exit_status) -> None:
    lines = message.splitlines() or [""]
    if distributed.first_to_report():
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
    sys.exit(status)
