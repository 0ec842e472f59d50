"""Builds corpus, model, optimiser and scorer from a configuration; used by the scripts only."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict

from ..base.batch import DataDims, collate
from ..base.errors import InputError
from ..base.external import is_external
from ..base.installed import INSTALLED, OPTIONS_PAGE, home
from ..base.memory import bounded_memory, free_memory
from ..base.runtime import Runtime
from ..config.config import experiment_name
from ..config.external import find_model, find_term
from ..datasets import LoadedCorpus, load_corpus
from ..datasets.corruption import Corruption
from ..datasets.dense import DenseParagraphs
from ..datasets.options import CorpusOptions
from ..datasets.standardization import Standardization
from ..decoding import Decoding
from ..losses import Criterion
from ..models import build_model
from ..models.interface import Model
from . import checkpoint
from .batch_gradient import BatchGradient
from .optimization import Optimization
from .probe import probe
from .provenance import provenance
from .scorer import Options, Scorer

_BESIDE_WEIGHTS = 4 * 2**30  # bytes that building a model may take for tables that are no weights
MOST_POSITIONS = 10_000  # that a checkpoint is believed to have
DATA_HELP = f"default: data of the {'current folder' if INSTALLED else 'repository'}"
PATHS_HELP = (
    "Paths on the command line, those of --set too, are relative to the current\n"
    f"folder; those in a YAML to {'it too' if INSTALLED else 'the repository'} (BASE and files of "
    "code: to the YAML)."
)


def resolve(path: str) -> Path:
    """A path of the configuration; see ``home`` for relative ones. Those of the command line are
    absolute when they come here."""
    return home() / path


def add_common_flags(parser: argparse.ArgumentParser, *, of_run: bool = False) -> None:
    """The flags that training and testing share; names as in the original command lines.

    Args:
        of_run: the folder of a run may stand in the place of ``--cfg``, as ``run``.
    """
    if of_run:
        parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a trained run")
    help = "the experiment" + ", whose run lies below --modelDir" * of_run
    parser.add_argument("--cfg", required=not of_run, metavar="YAML", help=help)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help=f"change one option of the experiment; may be repeated (options: {OPTIONS_PAGE})",
    )
    parser.add_argument("--decode", metavar="YAML", help="take the DECODE section of another file")
    parser.add_argument(
        "--gpus", metavar="N", help="GPU to use; cpu or -1 for none (default: the first, if any)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load data")
    parser.add_argument("--dataDir", metavar="DIR", help=f"folder of the corpora ({DATA_HELP})")
    parser.add_argument(
        "--modelDir",
        metavar="DIR",
        help=f"folder of the runs ({DATA_HELP.replace('data', 'save')})",
    )
    parser.add_argument(
        "--logDir", metavar="DIR", help="folder of TensorBoard files (default: the run's folder)"
    )
    parser.epilog = PATHS_HELP
    parser.add_argument("--tag", metavar="TEXT", help="suffix of the run's folder")
    parser.add_argument("--verbose", action="store_true", help="progress bars and more lines")


def provenance_of(
    config: EasyDict, corpus: LoadedCorpus, runtime: Runtime, features: Mapping[str, Any]
) -> dict[str, Any]:
    """The provenance of the numbers of this process; see ``provenance``."""
    return provenance(
        runtime,
        seed=config.TRAIN.SEED,
        annotations=corpus.annotations,
        features=features,
    )


def run_folder(cfg_path: str, config: EasyDict) -> Path:
    """``MODEL_DIR/<experiment>[-TAG]``."""
    name = experiment_name(cfg_path)
    return resolve(config.MODEL_DIR) / (f"{name}-{config.TAG}" if config.TAG else name)


def open_runtime(config: EasyDict) -> Runtime:
    """The device of the experiment; several processes join their group in this call."""
    train = config.TRAIN
    return Runtime.start(config.GPUS, deterministic=train.DETERMINISTIC, precision=train.PRECISION)


@contextlib.contextmanager
def _growing() -> Iterator[None]:
    """A context without garbage collection: none of a million new objects is garbage, and to find
    that out takes a third of the start-up time. The new objects are excluded from later collections
    too."""
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
    config: EasyDict,
    splits: Sequence[str],
    *,
    show_moments: bool = False,
    standardization: Standardization | None = None,
    trained: Mapping[str, Any] | None = None,
    scored: str = "",
) -> LoadedCorpus:
    """The corpus of an experiment.

    Training moments are hidden unless supervision is full, or ``show_moments``: to score the split.

    Args:
        standardization: what a checkpoint was trained with; None = measure it, if it is switched
                on.
        trained: the state of a checkpoint whose training read the same sentences, and whose model
                has the same number of positions; None = a new one.
        scored: the split whose videos TEST.CORRUPTION is for.
    """
    data = config.DATASET
    corruption = corruption_of(config)
    weak, positions = config.TRAIN.SUPERVISION == "weak", 0
    if trained is not None:
        weak = weak and trained.get("empty_moments") == "kept"  # as no earlier release did
        positions = trained_positions(trained)
    return load_corpus(
        corpus_options(config),
        name=data.NAME,
        data_dir=resolve(config.DATA_DIR),
        splits=splits,
        cache_fallback=cache_folder(config),
        standardization=standardization,
        corruption={scored: corruption} if scored and corruption else None,
        hide_train_moments=config.TRAIN.SUPERVISION == "weak" and not show_moments,
        weak=weak,
        positions=positions,
        synthetic=data.get("SYNTHETIC"),
    )


def corpus_options(config: EasyDict) -> CorpusOptions:
    """The experiment's section DATASET."""
    known = {field.name for field in dataclasses.fields(CorpusOptions)}
    options = {k.lower(): value for k, value in config.DATASET.items() if k.lower() in known}
    if config.DATASET.CACHE_DIR:
        options["cache_dir"] = str(resolve(config.DATASET.CACHE_DIR))
    return CorpusOptions(**options)


def trained_positions(state: Mapping[str, Any]) -> int:
    """The positions of sentences that a checkpoint's model has; 0 = it does not say."""
    experiment = state.get("experiment")
    sizes = experiment.get("dims") if isinstance(experiment, Mapping) else None
    count = sizes.get("max_sentences") if isinstance(sizes, Mapping) else None
    return count if isinstance(count, int) and 0 < count <= MOST_POSITIONS else 0


def cache_folder(config: EasyDict) -> Path:
    """Where runs keep what they share: the vectors of all words, and packed features that cannot
    lie beside their file."""
    return resolve(config.MODEL_DIR) / ".cache"


def corruption_of(config: EasyDict) -> Corruption | None:
    """What the experiment does to the videos that are scored; None = nothing."""
    test = config.TEST
    if test.CORRUPTION == "none":
        return None
    return Corruption(test.CORRUPTION, test.CORRUPTION_BLOCKS, test.CORRUPTION_NOISE)


def open_model(
    config: EasyDict, corpus: LoadedCorpus, runtime: Runtime, decoding: Decoding | None = None
) -> Model:
    """The experiment's model with its initial weights, a function of the seed.

    Args:
        decoding: for a model that decodes in training; None: the experiment's.

    Raises:
        InputError: its keywords do not go together, or there is no memory for it.
    """
    torch.manual_seed(config.TRAIN.SEED)
    free = free_memory()
    with contextlib.nullcontext() if free is None else bounded_memory(free):
        try:
            model = make_model(config, corpus.dims, decoding or open_decoding(config))
        except (MemoryError, RuntimeError) as fault:
            if not isinstance(fault, MemoryError) and "allocate" not in str(fault):
                raise
            raise InputError(
                f"MODEL.PARAMS describe a model that the {(free or 0) / 2**30:.1f} GiB of free "
                "memory do not hold; expected a smaller one"
            ) from None
    if is_external(config.MODEL.NAME):
        split = corpus[next(iter(corpus.splits))]
        few = collate([split[index] for index in range(min(len(split), 3))])
        probe(model.to(runtime.device), few.to(runtime.device), config.MODEL.NAME)
    return runtime.shared(model.to(runtime.device))


def make_model(config: EasyDict, dims: DataDims, decoding: Decoding) -> Model:
    """The experiment's model for data of these sizes.

    Raises:
        InputError: its keywords do not go together.
    """
    params = dict(config.MODEL.PARAMS)
    if params.get("text_encoder", "lstm") != "lstm":  # a folder
        params["text_encoder"] = str(resolve(params["text_encoder"]))
    try:
        return build_model(find_model(config.MODEL.NAME), dims, decoding, **params)
    except ValueError as error:  # keywords that do not go together
        raise InputError(f"MODEL.PARAMS: {error}") from error


def model_of_file(
    path: Path, state: Mapping[str, Any], config: EasyDict, dims: DataDims, decoding: Decoding
) -> Model:
    """The model that a checkpoint or an export describes, with its weights, on the CPU.

    Raises:
        InputError: its options make no model, or a much larger one than its weights are; or its
            weights are of another one.
    """
    known = sum(weight.numel() * weight.element_size() for weight in state["model"].values())
    known += sum(x.numel() * 4 for x in (dims.word_vectors, dims.word_idf) if x is not None)
    try:
        with bounded_memory(_BESIDE_WEIGHTS + 8 * known):
            model = make_model(config, dims, decoding)
    except InputError:
        raise
    except Exception as fault:  # options that no experiment would pass, of a damaged file
        reason = (str(fault).splitlines() or [""])[0][:120] or type(fault).__name__
        raise InputError(
            f"{path} has options or sizes of which no model can be made ({reason})"
        ) from None
    checkpoint.load_into(model, state)
    return model


@_growing()
def open_optimization(config: EasyDict, model: Model, steps_per_epoch: int) -> Optimization:
    """The experiment's loss and optimiser, with the model's ``plan``.

    Raises:
        InputError: a weight for a loss term whose part the model is built without, or an epoch in
            which no term has a weight.
    """
    train = config.TRAIN
    weights = config.LOSS.WEIGHTS
    refused = sorted(term for term in model.unavailable_terms if weights.get(term))
    if refused:
        raise InputError(
            f"LOSS.WEIGHTS: {', '.join(refused)} cannot be computed, because MODEL.PARAMS leave out"
            " the part of the model that they train; expected weight 0"
        )
    terms = {**model.losses(**config.LOSS.PARAMS)}
    external = {name: find_term(name) for name in weights if is_external(name)}
    plan, criterion = model.plan(**train.PARAMS), Criterion(terms, weights, external)
    for epoch in range(train.EPOCHS):
        if all(criterion.scaled(stage.factors) is None for stage in plan.stages(epoch)):
            raise InputError(
                f"LOSS.WEIGHTS: no term that {config.MODEL.NAME} trains in epoch {epoch + 1} has a "
                "weight, so that nothing would learn (a YAML of another model than its BASE's "
                "inherits no weights)"
            )
    return Optimization(
        model,
        criterion,
        plan,
        optimizer=train.OPTIMIZER,
        lr=train.LR,
        betas=(0.9, train.BETA2),
        momentum=train.MOMENTUM,
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


def open_batch_gradient(config: EasyDict, model: Model, runtime: Runtime) -> BatchGradient:
    """The ``BatchGradient`` with the experiment's options."""
    train = config.TRAIN
    return BatchGradient(
        model,
        runtime,
        accumulate=train.ACCUMULATE,
        recompute_map=train.RECOMPUTE_MAP,
        compiler="inductor" if train.COMPILE else "",
    )


def open_decoding(config: EasyDict) -> Decoding:
    """The experiment's options of decoding moments from evidence."""
    options = {name.lower(): value for name, value in config.DECODE.items()}
    return Decoding(**{**options, "evidence": dict(options["evidence"])})


def open_scorer(
    config: EasyDict, split: DenseParagraphs, runtime: Runtime, *, verbose: bool = False
) -> Scorer:
    """The scorer of a split with the experiment's thresholds and counts."""
    known = {field.name for field in dataclasses.fields(Options)}
    options = {name.lower(): value for name, value in config.TEST.items()}
    return Scorer(
        split,
        runtime,
        Options(**{name: value for name, value in options.items() if name in known}),
        open_decoding(config),
        workers=config.WORKERS,
        verbose=verbose,
    )
