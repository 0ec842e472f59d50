"""How a corpus is read; the ``DATASET`` section of an experiment has the same, in capitals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..base.described import described


@dataclass(frozen=True)
class CorpusOptions:
    """All that can be chosen, with what it means; the defaults suit ActivityNet Captions."""

    title: str = described("", "What the corpus is called; empty = as it ships, or NAME.")
    dir: str = described("", "Its folder below DATA_DIR; empty = as it ships, or NAME.")
    annotations: str | dict[str, str | list[str]] = described(
        {},
        "Annotation file in DIR of each split: train, and if there are any val, test and others by"
        " words of your own (test_ood), of which training opens none; of a list the first file"
        " found. Or one file in which all splits lie. Empty = as it ships.",
    )
    splits: dict[str, str] = described(
        {},
        "Of one file that does not say where its videos belong: for each split a file in DIR that"
        " lists ids of videos, as a JSON list or one in a line.",
    )
    paragraphs: Literal["video", "row"] = described(
        "video",
        "What a paragraph is in a file of rows, such as JSON Lines: video = all sentences of a"
        " video, row = each sentence by itself.",
    )
    features: str | list[str] = described(
        "",
        "Features in DIR: an HDF5 file, a folder of .npy, .npz or .pt files, a .pt file of all"
        " videos, or a folder with feature.bin; of a list, the rows are joined by width. Empty ="
        " as the corpus ships.",
    )
    feature_dim: int = described(
        0, "Width of a feature row that there must be, joined; 0 = any.", low=0
    )
    feature_member: str = described(
        "",
        "Which array holds the rows, where a video has several; empty = the only one of its kind.",
    )
    seconds_per_row: float = described(
        0.0,
        "Seconds from one row to the next, which doctor.py compares with rows and durations; 0 ="
        " not known.",
        low=0,
    )
    missing_videos: Literal["refuse", "drop"] = described(
        "refuse",
        "A video without features: drop = leave its paragraphs out of every split, counted.",
    )
    linked_features: bool = described(
        False,
        "Read features that FEATURES only refers to, in other files: by external links, virtual"
        " datasets or external storage.",
    )
    num_frames: int = described(256, "T: rows to which every video is resampled.", low=1)
    num_clips: int = described(32, "N: clips along a map axis; divides NUM_FRAMES.", low=1)
    normalize: bool = described(
        True,
        "Scale every feature row to length 1 before resampling; of joined FEATURES, the row of"
        " each of them.",
    )
    standardize: bool = described(
        False,
        "Then scale every number of a row by the mean and deviation that it has over the"
        " training videos; the checkpoint keeps them.",
    )
    word_vectors: str = described(
        "glove.pkl",
        "Word vectors: a file in DIR, or a path; as GloVe, word2vec, fastText's .vec and torchtext"
        " are published, zipped or not. With WORD_FEATURES none are read.",
    )
    word_dim: int = described(
        0,
        "Width of the word vectors that there must be, and by which one is chosen of a zip with"
        " several; 0 = any.",
        low=0,
    )
    word_features: str = described(
        "",
        "Features of each sentence's tokens in DIR, in one of the layouts of FEATURES, which models"
        " read instead of word vectors; empty = none.",
    )
    vocab_size: int = described(
        8000, "Most frequent training words that reconstruction can name.", low=1
    )
    tagger: Literal["function_words", "nltk"] = described(
        "function_words",
        "What finds the content words, which are masked twice as often.",
    )
    tokens: Literal["words", "spaces", "spaces_no_stop", "words_and_marks"] = described(
        "words",
        "What a word is, for weights that were trained elsewhere: spaces leaves punctuation on it"
        " and gives unknown words zeros, as 2D-TAN's release does; spaces_no_stop first cuts the"
        " full stop that ends a sentence, as it does on Charades-STA; words_and_marks makes each"
        " mark a word, as the DMR-JRG release does.",
    )
    stems: bool = described(
        False, "Words of one stem (opens, opening) share an id; each keeps its own vector."
    )
    order: Literal["auto", "file", "time"] = described(
        "auto",
        "Order of a paragraph's sentences; auto = by time for charades, as in the file else.",
    )
    cut_descriptions: bool | None = described(
        None,
        "Several descriptions of a video lie end to end (TACoS): cut them where a sentence starts"
        " before its predecessor. Empty = as the corpus ships, or false.",
    )
    min_sentences: dict[str, int] = described(
        {}, "For each split, sentences below which a paragraph is left out; empty = as it ships."
    )
    notes: list[str] = described(
        [], "What a reader of the corpus's numbers must know; printed as it is."
    )
    max_sentences: int = described(
        0, "Longest training paragraph, the rest is cut; 0 = uncut.", low=0
    )
    val_fraction: float = described(
        0.1,
        "Training videos held out where the corpus has no validation split, as a fraction.",
        low=0,
        high=1,
        open=True,
    )
    seed: int = described(
        0, "Of the held-out videos and of the limits; TRAIN.SEED leaves both alone.", low=0
    )
    limit_train: int = described(
        0, "Train on that many paragraphs, drawn by the seed; 0 = all.", low=0
    )
    limit_val: int = described(0, "The same for validation.", low=0)
    limit_test: int = described(0, "The same for the test.", low=0)
    bad_moments: Literal["drop", "refuse"] = described(
        "drop",
        "A moment that ends before it starts: drop = leave its sentence out, but keep it in"
        " training without supervision, where it has no moment.",
    )
    empty_sentences: Literal["refuse", "drop"] = described("refuse", "A sentence without a word.")
    cache: Literal["auto", "disk", "memory", "direct"] = described(
        "auto",
        "Where resampled features are kept: in a file made once, in memory, or nowhere; auto ="
        " memory for a corpus under 256 MiB, disk for others. Same numbers.",
    )
    cache_dir: str = described(
        "",
        "Folder of that file; empty = cache beside FEATURES, or .cache in MODEL_DIR where that"
        " cannot be written.",
    )
    cache_dtype: Literal["float32", "float16"] = described(
        "float32", "float16 halves it, and rounds every number by up to 1/2048 of itself."
    )
