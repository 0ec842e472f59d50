"""Facts of the corpora: files, feature widths, splits, and what to know before quoting a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import InputError
from ..base.external import is_external, load_object

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CorpusFacts:
    """What is true of a corpus whatever the experiment."""

    title: str
    folder: str  # below the data folder
    features: str  # default HDF5 file
    feature_key: str  # dataset inside a video's HDF5 group; "" = the video is the dataset
    feature_dim: int  # width of the published features; 0 = any
    annotations: Mapping[str, tuple[str, ...]]  # split -> accepted names, first found wins
    order: str = "file"  # sentences of a paragraph: "file" or "time"
    cut_descriptions: bool = False  # several descriptions of a video lie end to end
    min_sentences: Mapping[str, int] = field(default_factory=dict)  # shorter paragraphs are dropped
    notes: tuple[str, ...] = ()


def _json_names(split: str) -> tuple[str, ...]:
    """CPL's name, then 2D-TAN's."""
    return (f"{split}_data.json", f"{split}.json")


def _caption_name(corpus: str, split: str) -> str:
    """DCIML's."""
    return f"TextData/{corpus}{split}.caption.txt"


CORPORA: Mapping[str, CorpusFacts] = {
    "activitynet": CorpusFacts(
        title="ActivityNet Captions",
        folder="activitynet",
        features="sub_activitynet_v1-3.c3d.hdf5",
        feature_key="c3d_features",
        feature_dim=500,
        annotations={
            split: (*_json_names(split), _caption_name("activitynet", split)) for split in SPLITS
        },
        notes=(
            "ActivityNet Captions: val and test annotate the same videos, so a model selected on "
            "val was selected on test's videos; never train on val.",
        ),
    ),
    "charades": CorpusFacts(
        title="Charades-STA",
        folder="charades",
        features="vgg_rgb_features.hdf5",
        feature_key="",
        feature_dim=4096,
        annotations={
            split: (
                *_json_names(split),
                f"charades_{split}.json",
                f"charades_sta_{split}.txt",
                _caption_name("charades", split),
            )
            for split in SPLITS
        },
        order="time",
        notes=(
            "Charades-STA: the file's sentences are not in the order of time; unless ORDER says "
            "file, each paragraph is sorted by (start, end) once, when it is built.",
            "Charades-STA: a third of the test sentences are repeated verbatim in other videos, "
            "which bounds retrieval.",
        ),
    ),
    "tacos": CorpusFacts(
        title="TACoS",
        folder="tacos",
        features="tall_c3d_features.hdf5",
        feature_key="",
        feature_dim=4096,
        annotations={split: _json_names(split) for split in SPLITS},
        cut_descriptions=True,
        min_sentences={"train": 3, "val": 3, "test": 2},
        notes=(
            "TACoS: paragraphs are recovered by cutting where a sentence starts before its "
            "predecessor (1,220 / 480 / 432); the paper's 1,107 / 418 / 380 come from a file that "
            "is not public, so its numbers are not comparable to the digit.",
            "TACoS: the test corpus has 25 videos, so R@100 is grounding alone and R@10 is 40 % by "
            "chance.",
        ),
    ),
    "synthetic": CorpusFacts(
        title="synthetic world",
        folder="synthetic",
        features="features.hdf5",
        feature_key="c3d_features",
        feature_dim=0,
        annotations={split: _json_names(split) for split in SPLITS},
        notes=("Synthetic world: numbers say whether the code learns, nothing about real video.",),
    ),
}


def facts(name: str) -> CorpusFacts:
    """The facts of a corpus, by its name or by a reference to one from outside.

    Raises:
        InputError: the corpus is not one of CORPORA, or the reference names no CorpusFacts.
    """
    if is_external(name):
        corpus = load_object(name)
        if not isinstance(corpus, CorpusFacts):
            raise InputError(f"{name} is no CorpusFacts")
        return corpus
    if name not in CORPORA:
        raise InputError(f"corpus {name!r} is unknown; expected one of {', '.join(CORPORA)}.")
    return CORPORA[name]


def find_annotations(corpus: CorpusFacts, folder: Path, split: str) -> Path | None:
    """The first accepted annotation file of a split that exists."""
    for name in corpus.annotations[split]:
        if (folder / name).is_file():
            return folder / name
    return None


def require_annotations(corpus: CorpusFacts, folder: Path, split: str) -> Path:
    """The same, where the split cannot be done without.

    Raises:
        InputError: none of the accepted files exists.
    """
    path = find_annotations(corpus, folder, split)
    if path is None:
        names = ", ".join(corpus.annotations[split])
        where = folder if folder.is_dir() else f"{folder} (the folder does not exist)"
        raise InputError(
            f"no {split} annotations of {corpus.title} in {where}; expected one of {names}."
        )
    return path
