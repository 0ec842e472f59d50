"""Under which name a video, or a sentence, is stored.

Releases of one corpus name its videos differently: with a file's extension or without, with
ActivityNet's ``v_`` or without, by the 11 characters of a YouTube id. The nearest name is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from ...base.errors import InputError
from .store import Store

_SUFFIXES = "avi mp4 m4v mkv webm mov mpg mpeg ts mts m2ts flv wmv ogv 3gp"
_EXTENSIONS = tuple(f".{name}" for name in _SUFFIXES.split())
_YOUTUBE = 11  # characters of an id

# How a stored name differs from the id that it was found for, the nearest first.
AS_IS = ""
EXTENSION = "without the extension"
PREFIX = "with or without v_"
CUT = f"by the first {_YOUTUBE} characters"
QUERY = "with qid before the id"


def without_extension(name: str) -> str:
    """``a.mp4`` -> ``a``, and DiDeMo's ``a.`` likewise; ``x_60.0_210.0`` stays as it is."""
    lower = name.lower()
    for extension in (*_EXTENSIONS, "."):
        if lower.endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)]
    return name


class Names:
    """Finds the stored name of an id.

    Args:
        store: what holds the names.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._found: dict[str, str | None] = {}
        self._extended: dict[str, list[str]] | None = None

    def find(self, id_: str) -> str | None:
        """The stored name; None = it is not there.

        Raises:
            InputError: two stored names fit equally well.
        """
        if id_ not in self._found:
            self._found[id_] = next(filter(self.store.has, self._candidates(id_)), None)
        return self._found[id_]

    def _candidates(self, id_: str) -> Iterator[str]:
        raise NotImplementedError

    def way(self, id_: str, name: str) -> str:
        """How a stored name differs from the id that it was found for."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_extended": None}


class VideoNames(Names):
    """The names of videos: as the id is, without its extension or with one, with ``v_`` or without,
    and by the first 11 characters."""

    def _candidates(self, id_: str) -> Iterator[str]:
        yield id_
        bare = without_extension(id_)
        short = bare.removeprefix("v_")
        yield from self._with_extensions(bare)
        for name in dict.fromkeys((f"v_{bare}", short)):
            yield from self._with_extensions(name)
        if len(short) > _YOUTUBE:
            for name in (f"v_{short[:_YOUTUBE]}", short[:_YOUTUBE]):
                yield from self._with_extensions(name)

    def _with_extensions(self, name: str) -> Iterator[str]:
        yield name
        if self._extended is None:
            self._extended = defaultdict(list)
            for stored in self.store.names():
                if (bare := without_extension(stored)) != stored:
                    self._extended[bare].append(stored)
        several = self._extended.get(name, ())
        if len(several) > 1:
            raise InputError(
                f"{self.store.path}: {name} may be {several[0]} or {several[1]}; expected one of "
                "them."
            )
        yield from several

    def way(self, id_: str, name: str) -> str:
        if id_ == name:
            return AS_IS
        bare, stored = without_extension(id_), without_extension(name)
        if bare == stored:
            return EXTENSION
        return PREFIX if bare.removeprefix("v_") == stored.removeprefix("v_") else CUT


class SentenceNames(Names):
    """The names of sentences: as the id is, or QVHighlights' ``qid`` before it."""

    def _candidates(self, id_: str) -> Iterator[str]:
        yield id_
        yield f"qid{id_}"

    def way(self, id_: str, name: str) -> str:
        return AS_IS if id_ == name else QUERY


Finder = Callable[[Store], Names]
