"""Lines of a vector file that cannot be read: a few are left out and named, many are fatal."""

from __future__ import annotations

from ...base.errors import InputError

_FEW, _SHARE = 10, 0.01  # of all lines
_SOON = 100  # after which a file that is mostly unreadable is not read to its end
_SHOWN = 3


class Faults:
    """What was left out of a file.

    Args:
        where: the file, for messages.
        unit: what it is made of.
    """

    def __init__(self, where: str, unit: str = "line") -> None:
        self.where, self.unit = where, unit
        self.count = 0
        self.shown: list[str] = []

    def add(self, number: int, what: str) -> None:
        """Count one.

        Args:
            number: from 1.
            what: is wrong with it.

        Raises:
            InputError: nearly all so far are wrong.
        """
        self.count += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{self.unit} {number:,} {what}")
        if self.count > _SOON and self.count > number // 2:
            self.refuse(number)

    def require_few(self, total: int) -> None:
        """Raises InputError if so many of all lines are wrong that it is no file of vectors."""
        too_many = self.count > max(_FEW, _SHARE * total) or 2 * self.count >= total
        if self.count and too_many or not total:
            self.refuse(total)

    def refuse(self, total: int) -> None:
        if not total:
            raise InputError(
                f"{self.where}: is not a file of word vectors: it holds no {self.unit}."
            )
        raise InputError(
            f"{self.where}: is not a file of word vectors that can be read: {self.count:,} of "
            f"{total:,} {self.unit}s are wrong ({'; '.join(self.shown)})."
        )

    def notes(self) -> list[str]:
        if not self.count:
            return []
        units = self.unit + "s" * (self.count > 1)
        return [f"{self.where}: {self.count:,} {units} left out ({'; '.join(self.shown)})"]
