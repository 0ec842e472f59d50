"""The error for a video that cannot be used."""

from __future__ import annotations

from ..base.errors import InputError


class BrokenVideo(InputError):
    """A video file that gives no rows; the message is one sentence that names it."""
