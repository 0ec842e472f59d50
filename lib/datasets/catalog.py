"""What a corpus consists of: one that ships (``corpora/*.yaml``), or one that an experiment
describes. Both are described by the same keys, those of the section ``DATASET``.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import yaml

from ..base.errors import InputError
from .corruption import Kind
from .options import CorpusOptions

SPLITS = ("train", "val", "test")
_SHIPPED = {path.stem: path for path in sorted(Path(__file__).with_name("corpora").glob("*.yaml"))}
CORPORA = tuple(_SHIPPED)  # the names of the corpora that ship
_CALLED = {"training": "train", "testing": "test"}  # how others call the splits
_CALLED |= dict.fromkeys(("valid", "validation", "dev"), "val")


@dataclass(frozen=True)
class CorpusFacts:
    """The files of a corpus, and how its paragraphs are made of them."""

    name: str
    title: str
    folder: str  # below the data folder, or absolute
    features: str | list[str]  # in the folder, or absolute; several are joined by width
    # split -> accepted files in the folder, the first found wins
    annotations: Mapping[str, tuple[str, ...]]
    lists: Mapping[str, str] = field(default_factory=dict)  # split -> file that lists its videos
    inside: bool = False  # all splits lie in one file, which says of every video where it belongs
    stated: bool = False  # the experiment names the files, which must then exist
    order: str = "file"  # sentences of a paragraph: "file" or "time"
    cut_descriptions: bool = False  # several descriptions of a video lie end to end
    min_sentences: Mapping[str, int] = field(default_factory=dict)  # shorter paragraphs are dropped
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there may be files of; train, val and test before others."""
        return tuple(self.annotations)


def facts(name: str, options: CorpusOptions | None = None) -> CorpusFacts:
    """A corpus that ships, with what the options say otherwise, or the one that they describe.

    Raises:
        InputError: no corpus of this name ships and the options do not describe one, or they
            contradict each other. The sentence begins with the option at fault.
    """
    own = options or CorpusOptions()
    if name in _SHIPPED:
        usual = _shipped(name)
    else:
        _require_described(name, own)
        usual = CorpusOptions(title=name, dir=name)
    files, lists = own.annotations or usual.annotations, own.splits or usual.splits
    cut = usual.cut_descriptions if own.cut_descriptions is None else own.cut_descriptions
    order = usual.order if own.order == "auto" else own.order
    _check(files, lists)
    inside = isinstance(files, str) and not lists
    if isinstance(files, str):
        files = dict.fromkeys(lists or SPLITS, files)
    names = [*(split for split in SPLITS if split in files), *(s for s in files if s not in SPLITS)]
    accepted = {split: [f] if isinstance(f := files[split], str) else f for split in names}
    return CorpusFacts(
        name=name,
        title=own.title or usual.title,
        folder=own.dir or usual.dir,
        features=own.features or usual.features,
        annotations={split: tuple(found) for split, found in accepted.items()},
        lists=dict(lists),
        inside=inside,
        stated=bool(own.annotations),
        order="file" if order == "auto" else order,
        cut_descriptions=bool(cut),
        min_sentences={**usual.min_sentences, **own.min_sentences},
        notes=(*usual.notes, *own.notes),
    )


def find_annotations(corpus: CorpusFacts, folder: Path, split: str) -> Path | None:
    """The first accepted annotation file of a split that exists.

    Raises:
        InputError: the experiment names the file of the split, and it does not exist.
    """
    for name in corpus.annotations.get(split, ()):
        if (folder / name).is_file():
            return folder / name
    if corpus.stated and split in corpus.annotations:
        raise InputError(_missing(corpus, folder, split))
    return None


def require_annotations(corpus: CorpusFacts, folder: Path, split: str) -> Path:
    """The same, where the split cannot be done without.

    Raises:
        InputError: none of the accepted files exists, or the corpus has no such split.
    """
    path = find_annotations(corpus, folder, split)
    if path is not None:
        return path
    if split not in corpus.annotations:
        raise InputError(f"{corpus.title} has no split {split}; it has {', '.join(corpus.splits)}.")
    raise InputError(_missing(corpus, folder, split))


@functools.cache
def _shipped(name: str) -> CorpusOptions:
    entry = yaml.safe_load(_SHIPPED[name].read_text("utf-8"))
    return CorpusOptions(**{key.lower(): value for key, value in entry.items()})


def _missing(corpus: CorpusFacts, folder: Path, split: str) -> str:
    names = ", ".join(corpus.annotations[split])
    where = folder if folder.is_dir() else f"{folder} (the folder does not exist)"
    one = "one of " if len(corpus.annotations[split]) > 1 else ""
    return f"no {split} annotations of {corpus.title} in {where}; expected {one}{names}."


def _require_described(name: str, own: CorpusOptions) -> None:
    """Raises InputError unless the options describe a corpus that does not ship."""
    if not own.annotations:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"NAME is {name[:60]!r}, and no corpus of this name ships ({', '.join(CORPORA)} do); "
            f"{hint}one's own is described by ANNOTATIONS and FEATURES (data/README.md)"
        )
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
        raise InputError(
            f"NAME is {name[:60]!r}, expected letters, digits and _ . + - for one's own corpus"
        )
    if not own.features:
        raise InputError(f"FEATURES is missing; expected the features of {name}'s videos")


def _check(files: str | Mapping[str, str | list[str]], lists: Mapping[str, str]) -> None:
    """Raises InputError for splits that are not, or not well, named."""
    given = {"SPLITS": lists, "ANNOTATIONS": {} if isinstance(files, str) else files}
    if lists and not isinstance(files, str):
        raise InputError(
            "SPLITS lists the videos of splits that lie in one file; expected ANNOTATIONS to be "
            "that file, and not a mapping"
        )
    for key, splits in given.items():
        for split, value in splits.items():
            _check_name(key, split)
            if not value or not all([value] if isinstance(value, str) else value):
                raise InputError(f"{key}.{split} names no file")
        if splits and "train" not in splits:
            raise InputError(
                f"{key} has {', '.join(splits)}; expected train, and val, test or others if there "
                "are any"
            )


def _check_name(key: str, split: object) -> None:
    """Results of a split go to files of its name, to which those of corrupted videos and of other
    data add theirs (``results_on_NAME``)."""
    if split in _CALLED:
        raise InputError(f"{key}.{split}: this split is called {_CALLED[str(split)]} here")
    fine = isinstance(split, str) and re.fullmatch(r"[A-Za-z]\w{0,39}", split)
    taken = any(kind in str(split) for kind in get_args(Kind)) or "on_" in str(split)
    if not fine or taken or hasattr(dict, str(split)):
        raise InputError(
            f"{key}: {str(split)[:40]!r} cannot be the name of a split; expected a word of "
            "letters, digits and _, such as test_ood"
        )
