"""The sentences of a split that are not scored, by reason: numbers over fewer sentences than others
count must say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .annotations import CLIPPED, EMPTY_DROPPED, TOO_SHORT, WORDLESS, Cleaning, Paragraph
from .videos import NO_FEATURES

EMPTY_MOMENT = "with an empty moment"
_REPAIRS = {  # as reading counts them -> as a result says it
    EMPTY_DROPPED: EMPTY_MOMENT,
    WORDLESS: "without a word",
    NO_FEATURES: "whose video has no features",
}
_SHORT = TOO_SHORT.partition("{}")[0]  # whatever the number that was asked for
_LIMIT = "by LIMIT_"


@dataclass(frozen=True)
class LeftOut:
    """Of ``of`` sentences of a split, ``sentences`` are not scored; ``clipped`` of the others had
    moments that were cut where their video ends."""

    sentences: int = 0
    of: int = 0
    why: dict[str, int] = field(default_factory=dict)
    clipped: int = 0

    @property
    def misses(self) -> int:
        """Those that a published protocol would count as misses: all but what a LIMIT took."""
        return sum(count for why, count in self.why.items() if not why.startswith(_LIMIT))

    def lines(self, split: str) -> list[str]:
        """A sentence for each kind of repair; none where there was none."""
        said = []
        if self.sentences:
            why = ", ".join(f"{count:,} {reason}" for reason, count in self.why.items())
            said.append(
                f"{self.sentences:,} of the {self.of:,} {split} sentences are left out and not "
                f"counted ({why})"
            )
        if self.clipped:
            said.append(
                f"the moments of {self.clipped:,} {split} sentences were clipped to their video"
            )
        return said


class Dropped:
    """What is taken from the splits between reading them and scoring them."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._held: Counter[str] = Counter()  # sentences of a split's file that another one has

    def note(
        self, split: str, why: str, before: Iterable[Paragraph], after: Iterable[Paragraph]
    ) -> None:
        """Count the sentences of a split that a step has taken."""
        taken = _sentences(before) - _sentences(after)
        self._counts.setdefault(split, Counter())[why] += taken

    def hold_out(self, of: str, taken: Iterable[Paragraph]) -> None:
        """Count the sentences of the file of one split that another split has."""
        self._held[of] += _sentences(taken)

    def limit(
        self, split: str, name: str, before: Iterable[Paragraph], after: Iterable[Paragraph]
    ) -> None:
        """The same for the sentences that a LIMIT takes, by its ``name``."""
        self.note(split, f"{_LIMIT}{name.upper()}", before, after)

    def left_out(
        self, split: str, cleaning: Cleaning | None, scored: Sequence[Paragraph]
    ) -> LeftOut:
        """All that a split lacks.

        Args:
            cleaning: of its file; None: it was held out of the training split.
            scored: what is left of it.
        """
        dropped, kept = self._counts.get(split, Counter()), _sentences(scored)
        counts = cleaning.counts if cleaning else Counter()
        why = {reason: counts[repair] for repair, reason in _REPAIRS.items()}
        of = kept + dropped.total()
        if cleaning:
            of = cleaning.sentences_read - self._held[split]
            rest = of - kept - dropped.total() - sum(why.values())
            short = any(repair.startswith(_SHORT) for repair in counts)
            why["in paragraphs that are too short" if short else "for other reasons"] = rest
        for reason, count in dropped.items():
            why[reason] = why.get(reason, 0) + count
        why = {reason: count for reason, count in why.items() if count > 0}
        return LeftOut(of - kept, of, why, counts[CLIPPED])


def _sentences(group: Iterable[Paragraph]) -> int:
    return sum(len(paragraph.sentences) for paragraph in group)
