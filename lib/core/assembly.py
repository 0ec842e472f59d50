"""Where a configuration becomes parts: shared by the scripts, read by nobody else."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from easydict import EasyDict
from torch import nn
from torch.utils.data import Subset
from tqdm import tqdm

from lib.core import distributed
from lib.core.config import experiment_name
from lib.core.errors import InputError
from lib.core.optimization import Optimization
from lib.core.prediction import (
    all_scores,
    ground_in,
    of_all_processes,
    read_split,
    similarities,
    split_candidates,
    with_all_videos,
)
from lib.core.runtime import Runtime
from lib.core.whole_batch import WholeBatch
from lib.datasets import LoadedCorpus, build_loader, load_corpus
from lib.datasets.dense import DenseParagraphs
from lib.evaluation import summarise
from lib.evaluation.chosen import (
    ScoreMaps,
    choose_paragraphs,
    maps_of_cells,
    paragraph_quality,
    sentences_of,
)
from lib.evaluation.records import Predictions, Truth
from lib.evaluation.retrieval import pairing_skill, top_videos
from lib.losses import Criterion
from lib.models import build_model
from lib.models.interface import Calibrated, Encoder, Grounder, Retriever

ROOT = Path(__file__).resolve().parents[2]


def resolve(path: str) -> Path:
    """A path of the configuration: relative ones start at the repository's root."""
    return Path(path) if Path(path).is_absolute() else ROOT / path


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that training and testing share; names as in the original command lines."""
    parser.add_argument("--cfg", required=True, metavar="YAML", help="the experiment")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one option of the experiment; may be repeated (options: docs/options.md)",
    )
    parser.add_argument(
        "--gpus", metavar="N", help="GPU to use; cpu or -1 for none (default: the first, if any)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load data")
    parser.add_argument("--dataDir", metavar="DIR", help="folder of the corpora (default: data)")
    parser.add_argument("--modelDir", metavar="DIR", help="folder of the runs (default: save)")
    parser.add_argument(
        "--logDir", metavar="DIR", help="folder of TensorBoard files (default: the run's folder)"
    )
    parser.add_argument("--tag", metavar="TEXT", help="suffix of the run's folder")
    parser.add_argument("--verbose", action="store_true", help="progress bars and more lines")


def run_folder(cfg_path: str, config: EasyDict) -> Path:
    """``MODEL_DIR/<experiment>[-TAG]``."""
    name = experiment_name(cfg_path)
    return resolve(config.MODEL_DIR) / (f"{name}-{config.TAG}" if config.TAG else name)


def open_runtime(config: EasyDict) -> Runtime:
    """Where the experiment runs; several processes meet here."""
    train = config.TRAIN
    return Runtime.start(config.GPUS, deterministic=train.DETERMINISTIC, precision=train.PRECISION)


@contextlib.contextmanager
def _growing() -> Iterator[None]:
    """Without looking for garbage: of a million new objects none is any, and to find that out takes
    a third of a start. What is there at the end stays out of later searches too."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@_growing()
def open_corpus(
    config: EasyDict, splits: Sequence[str], *, show_moments: bool = False
) -> LoadedCorpus:
    """The corpus of an experiment.

    Training moments are hidden unless supervision is full, or ``show_moments``: to score the split.
    """
    data = config.DATASET
    return load_corpus(
        name=data.NAME,
        data_dir=resolve(config.DATA_DIR),
        splits=splits,
        directory=data.DIR,
        features=data.FEATURES,
        feature_dim=data.FEATURE_DIM,
        num_frames=data.NUM_FRAMES,
        num_clips=data.NUM_CLIPS,
        normalize=data.NORMALIZE,
        word_vectors=data.WORD_VECTORS,
        word_features=data.WORD_FEATURES,
        vocab_size=data.VOCAB_SIZE,
        tagger=data.TAGGER,
        tokens=data.TOKENS,
        order=data.ORDER,
        max_sentences=data.MAX_SENTENCES,
        val_fraction=data.VAL_FRACTION,
        limits={"train": data.LIMIT_TRAIN, "val": data.LIMIT_VAL, "test": data.LIMIT_TEST},
        bad_moments=data.BAD_MOMENTS,
        empty_sentences=data.EMPTY_SENTENCES,
        cache=data.CACHE,
        cache_dir=resolve(data.CACHE_DIR) if data.CACHE_DIR else "",
        cache_fallback=resolve(config.MODEL_DIR) / ".cache",
        cache_dtype=data.CACHE_DTYPE,
        hide_train_moments=config.TRAIN.SUPERVISION == "weak" and not show_moments,
        seed=data.SEED,
        synthetic=data.get("SYNTHETIC"),
    )


def open_model(config: EasyDict, corpus: LoadedCorpus, runtime: Runtime) -> nn.Module:
    """The experiment's model with its initial weights, a function of the seed.

    Raises:
        InputError: its keywords do not go together.
    """
    torch.manual_seed(config.TRAIN.SEED)
    params = dict(config.MODEL.PARAMS)
    if params.get("text_encoder", "lstm") != "lstm":  # a folder
        params["text_encoder"] = str(resolve(params["text_encoder"]))
    try:
        model = build_model(config.MODEL.NAME, corpus.dims, **params)
    except ValueError as error:  # keywords that do not go together
        raise InputError(f"MODEL.PARAMS: {error}") from error
    return runtime.shared(model.to(runtime.device))


@_growing()
def open_optimization(config: EasyDict, model: nn.Module, steps_per_epoch: int) -> Optimization:
    """The experiment's loss and optimiser, with what the model says about its optimisation.

    Raises:
        InputError: a weight for a loss term whose part the model is built without.
    """
    train = config.TRAIN
    kind: Any = type(model)
    unserved: frozenset[str] = getattr(model, "unserved", frozenset())
    asked = sorted(term for term in unserved if config.LOSS.WEIGHTS.get(term))
    if asked:
        raise InputError(
            f"LOSS.WEIGHTS: {', '.join(asked)} cannot be computed, because MODEL.PARAMS leave out"
            " the part of the model that they train; expected weight 0"
        )
    plan = kind.plan(**train.PARAMS) if hasattr(kind, "plan") else None
    return Optimization(
        model,
        Criterion(kind.losses(**config.LOSS.PARAMS), config.LOSS.WEIGHTS),
        plan,
        optimizer=train.OPTIMIZER,
        lr=train.LR,
        betas=(0.9, train.BETA2),
        weight_decay=train.WEIGHT_DECAY,
        decay=train.LR_DECAY,
        decay_every=train.LR_DECAY_EVERY,
        milestones=train.LR_MILESTONES,
        fused=train.FUSED,
        warmup=train.WARMUP,
        total_steps=steps_per_epoch * train.EPOCHS,
        warmup_steps=train.WARMUP_STEPS,
        steps_per_epoch=steps_per_epoch,
    )


def truth_of(split: DenseParagraphs) -> Truth:
    """What is right, from the annotations themselves (float64, every sentence)."""
    paragraphs = split.paragraphs
    place = {video: index for index, video in enumerate(split.corpus)}
    duration = {paragraph.video_id: paragraph.duration for paragraph in paragraphs}
    return Truth(
        video_ids=split.corpus,
        durations=np.array([duration[video] for video in split.corpus], dtype=np.float64),
        paragraph_ids=tuple(paragraph.paragraph_id for paragraph in paragraphs),
        paragraph_video=np.array([place[paragraph.video_id] for paragraph in paragraphs]),
        sentence_paragraph=np.repeat(
            np.arange(len(paragraphs)), [len(paragraph.sentences) for paragraph in paragraphs]
        ),
        moments=np.concatenate([paragraph.moments for paragraph in paragraphs]),
        sentences=tuple(text for paragraph in paragraphs for text in paragraph.sentences),
    )


def open_whole(config: EasyDict, model: nn.Module, runtime: Runtime) -> WholeBatch:
    """What computes the gradient of a batch, in the way that the experiment asks for."""
    train = config.TRAIN
    return WholeBatch(
        model,
        runtime,
        accumulate=train.ACCUMULATE,
        recompute_map=train.RECOMPUTE_MAP,
        compiler="inductor" if train.COMPILE else "",
    )


class Scorer:
    """Scores a model on one split; built once, used every epoch.

    Several processes each read a share of the split and answer for its paragraphs; all of them then
    have all answers. What is not enough for a share each, each of them does whole.
    """

    def __init__(
        self, config: EasyDict, split: DenseParagraphs, runtime: Runtime, *, verbose: bool = False
    ) -> None:
        self.options, self.runtime, self.verbose = config.TEST, runtime, verbose
        self.split, self.truth = split, truth_of(split)
        self.loader = {
            "batch_size": config.TEST.BATCH_SIZE,
            "workers": config.WORKERS,
            "pin_memory": runtime.pin_memory,
        }
        videos = len(split.videos)
        self.shared = distributed.world_size() > 1 and videos >= distributed.world_size()
        self.own = distributed.own_share(len(split)) if self.shared else range(len(split))
        self.own_videos = distributed.own_share(videos) if self.shared else range(videos)
        self.paragraphs = build_loader(split.texts, rows=self.own, **self.loader)
        self.videos = build_loader(split.videos, rows=self.own_videos, **self.loader)

    def predict(
        self, model: nn.Module, *, calibrate: bool = False, candidates: int = 0
    ) -> Predictions:
        """What the model answers for the split.

        Args:
            calibrate: tell the model how well it retrieves here, before it grounds (validation).
            candidates: ground each paragraph in so many of its best videos too (joint protocols).
        """
        model.eval()
        read = read_split(
            cast(Encoder, model),
            self._watched(self.paragraphs, "paragraphs"),
            self._watched(self.videos, "videos"),
            self.runtime,
            num_videos=len(self.own_videos),
        )
        if self.shared:
            read = with_all_videos(read)
        similarity = similarities(model, read, self.runtime)
        if self.shared and similarity is not None:
            similarity = np.concatenate(distributed.gather_objects(similarity))
        if calibrate and similarity is not None and isinstance(model, Calibrated):
            model.calibrate(pairing_skill(similarity, self.truth.paragraph_video))
        videos, best, joint = self.truth.paragraph_video[:, None], None, None
        if similarity is not None and candidates:
            best = top_videos(similarity, candidates)
            videos = np.concatenate([videos, best.videos], axis=1)
        own = ground_in(
            model,
            read,
            videos[self.own],
            self.runtime,
            pairs=self.options.PAIRS,
            moments=self.options.MOMENTS,
            nms_iou=self.options.NMS_IOU,
            watch=lambda batches: self._watched(batches, "grounding"),
        )
        if self.shared and own is not None:
            own = of_all_processes(own)
        if own is not None and best is not None:
            counts = np.bincount(self.truth.sentence_paragraph)
            own, joint = split_candidates(own, best, counts)
        return Predictions(
            similarity=similarity,
            spans=None if own is None else own.spans,
            scores=None if own is None else own.scores,
            proposal_spans=None if own is None else own.grid,
            candidates=joint,
        )

    def score_maps(self, model: nn.Module, predictions: Predictions) -> ScoreMaps | None:
        """The maps of a few paragraphs, best, worst and drawn, for the report."""
        if predictions.proposal_spans is None:
            return None
        chosen = choose_paragraphs(paragraph_quality(self.truth, predictions))
        paragraphs = sorted(p for group in chosen.values() for p in group)
        few = build_loader(Subset(self.split, paragraphs), **{**self.loader, "workers": 0})
        scores = np.concatenate(list(all_scores(model, few, self.runtime)))
        return ScoreMaps(
            sentences_of(self.truth, paragraphs), maps_of_cells(predictions.proposal_spans, scores)
        )

    def _watched(self, batches: Any, what: str) -> Any:
        shown = self.verbose and distributed.is_main()
        return tqdm(batches, desc=f"scoring: {what}", leave=False, disable=not shown)

    def summarise(self, predictions: Predictions, **more: Any) -> dict[str, Any]:
        """The summary of ``lib.evaluation`` by the experiment's thresholds and counts."""
        return summarise(self.truth, predictions, **self._columns, **more)

    @property
    def _columns(self) -> dict[str, Any]:
        options = self.options
        return {
            "iou": options.IOU,
            "grounding_n": options.GROUNDING_N,
            "retrieval_k": options.RETRIEVAL_K,
        }

    def require(self, name: str, model: nn.Module) -> None:
        """Refuse a score that validation will not have, before an epoch is spent on finding out.

        Raises:
            InputError: with the names that it will have.
        """
        truth = Truth(
            video_ids=("video",),
            durations=np.ones(1),
            paragraph_ids=("paragraph",),
            paragraph_video=np.zeros(1, dtype=np.int64),
            sentence_paragraph=np.zeros(1, dtype=np.int64),
            moments=np.array([[0.0, 1.0]]),
            sentences=("sentence",),
        )
        finds, grounds = isinstance(model, Retriever), isinstance(model, Grounder)
        answer = Predictions(
            similarity=np.ones((1, 1)) if finds else None,
            spans=np.array([[[0.0, 1.0]]]) if grounds else None,
            scores=np.ones((1, 1)) if grounds else None,
        )
        metric(summarise(truth, answer, **self._columns, resamples=0), name)


def metric(summary: dict[str, Any], name: str) -> float:
    """The value called ``protocol/metric`` in a summary.

    Raises:
        InputError: a name that the summary does not have, with those it has.
    """
    protocol, _, key = name.partition("/")
    values = summary["protocols"].get(protocol)
    if values is None or key not in values:
        known = [f"{p}/{m}" for p, row in summary["protocols"].items() for m in row]
        raise InputError(
            f"TRAIN.SELECT_BY: {name!r} is not among the scores of this model, "
            f"expected one of {', '.join(known)}"
        )
    return values[key]


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; what the user can mend is said in a line, with exit status 2.

    Of several processes, the first one that has something to say against going on says it, and the
    others end too.
    """
    try:
        main()
        sys.stdout.flush()
        distributed.end()
    except InputError as error:
        _leave(str(error))
    except BrokenPipeError:  # who reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            _leave(f"{error.filename or 'the disk'}: {error.strerror}")
        distributed.first_to_tell()  # so that the traceback is all that is said
        raise
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            distributed.first_to_tell()
            raise
        _leave(f"TRAIN.DETERMINISTIC: on this device {str(error).split(',')[0]}")
    except KeyboardInterrupt:
        if distributed.first_to_tell():
            print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _leave(message: str) -> None:
    lines = message.splitlines() or [""]
    if distributed.first_to_tell():
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
