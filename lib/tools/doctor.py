"""Checks of a corpus's annotations and word vectors; each finding has a remedy.

A check never stops at the first fault. Levels: ``problem`` - training would stop, or its numbers
would be wrong; ``warning`` - it runs, but a reader of its numbers must know; ``note`` - nothing to
do.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from terminaltables import AsciiTable

from ..base.errors import InputError
from ..datasets.annotations import Record, SplitMissing, read_paragraphs, read_records
from ..datasets.catalog import CorpusFacts, find_annotations, require_annotations
from ..datasets.splits import listed_videos
from ..datasets.vocabulary import TOKENISERS, tokenise
from ..datasets.word_vectors import coverage, read_word_vectors
from .statistics import repeats, shared, timestamps

LEVELS = ("problem", "warning", "note")
_HELD_OUT = "VAL_FRACTION of the training videos is held out instead"
_COVERED = 0.95  # of the words of a split: GloVe has 99.8 % of each corpus, if tokens are words


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["problem", "warning", "note"]
    source: str  # a file, or a split
    description: str
    remedy: str = "nothing to do"


def examine_annotations(
    corpus: CorpusFacts,
    folder: Path,
    *,
    bad_moments: str = "drop",
    empty_sentences: str = "refuse",
    paragraphs: str = "video",
) -> tuple[list[Finding], dict[str, list[Record]]]:
    """Check every split's file without repairs, and by the experiment's rules for reading it.

    Returns:
        The findings, and the records of each split that could be read.
    """
    findings: list[Finding] = []
    records: dict[str, list[Record]] = {}
    one_file = len(set(corpus.annotations.values())) < len(corpus.annotations)
    for split in corpus.splits:
        try:
            path = find_annotations(corpus, folder, split)
        except InputError as fault:
            findings.append(Finding("problem", split, str(fault), "correct DATASET.ANNOTATIONS"))
            continue
        if path is None:
            findings.append(_absent(corpus, folder, split))
            continue
        name = f"{path.name} ({split})" if one_file else path.name
        try:
            listed = listed_videos(corpus, folder, split)
            records[split] = read_records(path, split=split, videos=listed)
        except SplitMissing as fault:
            if corpus.inside and split != "train":
                findings.append(_not_inside(path, split))
                continue
            findings.append(Finding("problem", name, _without(fault, path), "name its splits"))
            continue
        except InputError as fault:
            findings.append(Finding("problem", name, _without(fault, path), "repair the file"))
            continue
        try:
            _, cleaning = read_paragraphs(
                path,
                split=split,
                cut_descriptions=corpus.cut_descriptions,
                min_sentences=corpus.min_sentences.get(split, 1),
                bad_moments=bad_moments,
                empty_sentences=empty_sentences,
                paragraphs=paragraphs,
                untimed=True,
                videos=listed,
            )
        except InputError as fault:
            remedy = "repair the file, or choose another rule"
            findings.append(Finding("problem", name, _without(fault, path), remedy))
        else:
            findings += [Finding("note", name, text) for text in cleaning.remarks]
        findings += _of_timestamps(name, records[split], corpus.cut_descriptions)
        findings += _of_texts(name, records[split])
    if "val" not in corpus.splits:
        findings.append(Finding("note", "val", "the corpus has no such split", _HELD_OUT))
    findings += _between_splits(records)
    return findings, records


def examine_word_vectors(
    path: Path, records: Mapping[str, Sequence[Record]], *, tokens: str = "words", width: int = 0
) -> list[Finding]:
    """Read the file, and count how many of each split's words it has.

    Args:
        tokens: how sentences become words, one of ``TOKENISERS``.
        width: that the vectors must have; 0 = any.
    """
    counted = {
        split: Counter(
            word
            for record in group
            for text in record.sentences
            for word in TOKENISERS[tokens](text)
        )
        for split, group in records.items()
    }
    wanted = {word for words in counted.values() for word in words}
    try:
        vectors = read_word_vectors(path, width=width, words=wanted)
    except InputError as fault:
        return [Finding("problem", path.name, _without(fault, path), "get the file again")]
    size = f"{vectors.size:,} words of width {vectors.dim}"
    findings = [Finding("note", path.name, size)]
    findings += [
        Finding("warning", path.name, note.removeprefix(f"{path}: "), "get the file again")
        for note in vectors.notes
    ]
    for split, words in counted.items():
        share, tail = coverage(words, vectors)
        description = f"{100 * share:.2f} % of the {split} words have a vector{tail}"
        if share < _COVERED:
            remedy = "use the vectors made for this corpus: the others share one vector"
            findings.append(Finding("warning", path.name, description, remedy))
        else:
            findings.append(Finding("note", path.name, description))
    return findings


def table(findings: Iterable[Finding], *, width: int = 120) -> str:
    """The findings as a table at most ``width`` characters wide, the gravest first."""
    ordered = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    left = max([len(finding.source) for finding in ordered], default=4)
    room = max(width - left - len("problem") - 13, 40)
    rows = [
        [
            finding.level,
            finding.source,
            _wrap(finding.description, room * 3 // 5),
            _wrap(finding.remedy, room * 2 // 5),
        ]
        for finding in ordered
    ]
    grid = AsciiTable([["level", "where", "found", "remedy"], *rows])
    return str(grid.table)


def worst(findings: Iterable[Finding]) -> str:
    """The gravest level among them; "note" if there is none."""
    return min((f.level for f in findings), key=LEVELS.index, default="note")


def _not_inside(path: Path, split: str) -> Finding:
    remedy = _HELD_OUT if split == "val" else "nothing to do, unless it is to be scored"
    return Finding("note", split, f"{path.name} holds no such split", remedy)


def _absent(corpus: CorpusFacts, folder: Path, split: str) -> Finding:
    names = " or ".join(corpus.annotations[split][:2])
    if split == "val":
        return Finding("note", "val", f"there is no {names}", _HELD_OUT)
    try:
        require_annotations(corpus, folder, split)
    except InputError as fault:
        return Finding("problem", split, str(fault), "get the annotations, or set DATASET.DIR")
    raise AssertionError("the file appeared while it was looked for")


def _of_timestamps(name: str, records: Sequence[Record], cut: bool) -> list[Finding]:
    """Findings about timestamps, one for each kind of fault that occurs."""
    counts = timestamps(records)
    if counts.sentences == 0:
        return [Finding("problem", name, "no sentence in it", "get the file again")]
    share = f"of {counts.sentences:,} sentences"
    lines: list[tuple[str, Literal["warning", "note"], str, str]] = [
        (
            "untimed",
            "note",
            f"without timestamps, {share}",
            "training with TRAIN.SUPERVISION: weak and scores of retrieval need none",
        ),
        (
            "start_past_end",
            "warning",
            f"moments that do not end after their start, {share}",
            "BAD_MOMENTS: drop leaves these sentences out, refuse stops",
        ),
        (
            "end_past_duration",
            "note",
            f"moments that end after the video, {share}",
            "clipped to the video when read",
        ),
        (
            "end_past_duration_by_a_second",
            "warning",
            f"moments that end after the video by more than 1 s, {share}",
            "clipped when read; the durations may be of other copies of the videos",
        ),
        (
            "start_past_duration",
            "warning",
            f"moments that start after the video, {share}",
            "BAD_MOMENTS: drop leaves these sentences out, refuse stops",
        ),
        (
            "start_below_zero",
            "note",
            f"moments that start before the video, {share}",
            "clipped to the video when read",
        ),
        (
            "empty_after_clipping",
            "warning",
            f"moments that are empty once clipped to the video, {share}",
            "BAD_MOMENTS: drop leaves these sentences out, refuse stops",
        ),
        (
            "unsorted_paragraphs",
            "note",
            f"of {counts.paragraphs:,} paragraphs are not in the order of their starts",
            "descriptions are cut apart where a start goes back"
            if cut
            else "ORDER: time sorts them, file leaves them",
        ),
        (
            "paragraphs_with_equal_moments",
            "note",
            f"of {counts.paragraphs:,} paragraphs have two sentences of one moment",
            "nothing to do",
        ),
    ]
    findings = []
    for what, level, text, remedy in lines:
        count = getattr(counts, what)
        if count:
            examples = "; ".join(counts.examples.get(what, ()))
            shown = f" (e.g. {examples})" if examples else ""
            findings.append(Finding(level, name, f"{count:,} {text}{shown}", remedy))
    if bad := counts.paragraphs_with_start_past_end:
        remaining = counts.paragraphs - bad
        description = (
            f"{bad:,} paragraphs hold such a moment: {remaining:,} paragraphs "
            f"and {counts.sentences - counts.sentences_of_those:,} sentences are left where they "
            f"are dropped entirely, {counts.sentences - counts.start_past_end:,} sentences here"
        )
        remedy = "state which, when numbers are compared: published loaders drop the paragraphs"
        findings.append(Finding("note", name, description, remedy))
    return findings


def _of_texts(name: str, records: Sequence[Record]) -> list[Finding]:
    """Findings about texts: repeated or empty sentences, repeated paragraphs."""
    counts = repeats(records)
    findings = []
    if counts.surplus:
        text, times = counts.most_repeated
        description = (
            f"{counts.distinct:,} distinct sentences of {counts.sentences:,}: {counts.surplus:,} "
            f"surplus copies, {counts.repeated:,} sentences occur more than once "
            f'(e.g. "{text}" {times:,} times)'
        )
        often = counts.repeated > 0.1 * counts.sentences
        remedy = "a repeated sentence does not identify its video: sentence recall is bounded"
        findings.append(Finding("note", name, description, remedy if often else "nothing to do"))
    if counts.paragraphs_with_repeat:
        description = f"{counts.paragraphs_with_repeat:,} paragraphs repeat a sentence"
        findings.append(Finding("note", name, description))
    if counts.surplus_paragraphs:
        description = f"{counts.surplus_paragraphs:,} paragraphs are copies of another one's"
        remedy = "retrieval cannot distinguish their videos: equal scores are shared"
        findings.append(Finding("warning", name, description, remedy))
    wordless = [
        record.video_id for record in records for text in record.sentences if not tokenise(text)
    ]
    if wordless:
        description = (
            f"{len(wordless):,} sentences hold no word (e.g. of {', '.join(wordless[:3])})"
        )
        findings.append(
            Finding("warning", name, description, "EMPTY_SENTENCES: drop leaves them out")
        )
    twice = [key for key, n in Counter(r.paragraph_id for r in records).items() if n > 1]
    if twice:
        description = f"{len(twice):,} paragraphs occur twice (e.g. {', '.join(twice[:3])})"
        findings.append(
            Finding("warning", name, description, "each part is a paragraph of its own")
        )
    return findings


def _between_splits(records: Mapping[str, Sequence[Record]]) -> list[Finding]:
    """Videos and texts that two splits share."""
    findings = []
    pairs = [(a, b) for i, a in enumerate(records) for b in list(records)[i + 1 :]]
    for first, second in pairs:
        common = shared(records[first], records[second])
        source = f"{first}, {second}"
        if common.videos:
            description = (
                f"{common.videos:,} of the {common.of_videos:,} {second} videos are in {first}"
            )
            if first == "train":
                remedy = f"take them out of one: {second} scores what was trained on"
                findings.append(Finding("problem", source, description, remedy))
            elif first == "val":
                remedy = (
                    f"a model chosen on val was chosen on videos of {second}; never train on val"
                )
                findings.append(Finding("warning", source, description, remedy))
            else:
                findings.append(Finding("note", source, description, "each is scored on its own"))
        if common.sentences:
            share = 100 * common.sentences / common.of_sentences
            description = f"{common.sentences:,} {second} sentences ({share:.2f} %) are in {first}"
            findings.append(Finding("note", source, description))
    durations: dict[str, set[float]] = {}
    for group in records.values():
        for record in group:
            durations.setdefault(record.video_id, set()).add(record.duration)
    several = [video for video, values in durations.items() if len(values) > 1]
    if several:
        apart = max(max(durations[v]) - min(durations[v]) for v in several)
        description = (
            f"{len(several):,} videos have two durations, up to {apart:.3g} s apart "
            f"(e.g. {', '.join(several[:3])})"
        )
        level: Literal["problem", "note"] = "problem" if apart > 1 else "note"
        remedy = "find out which is right" if apart > 1 else "each split is read with its own"
        findings.append(Finding(level, "durations", description, remedy))
    return findings


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(width, 16)))


def _without(fault: InputError, path: Path) -> str:
    """The message without the file's name, which has a column of its own."""
    return str(fault).removeprefix(f"{path}:").strip()
