"""The error for bad input, with a message of one sentence."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence (or one line per fault) that names the file, key or video, what was
    found and what was expected. The scripts print it and exit with status 2; a traceback is for our
    own faults only.
    """
