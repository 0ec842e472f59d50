"""The error for bad input, with a message of one sentence."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence (or one line per fault) that names the file, key or video, what was
    found and what was expected. The scripts print it and exit with ``exit_status``; a traceback is
    for our own faults only.
    """

    exit_status = 2


class WorkerDied(InputError):
    """A process that loads data was killed; what the process that trains holds is sound."""

    exit_status = 4
