"""Train an experiment, validate it every epoch, and keep the best weights.

    python dense_train.py --verbose --cfg ../experiments/dense_activitynet/acnet.yaml
    torchrun --nproc_per_node 8 dense_train.py --cfg ../experiments/dense_activitynet/acnet.yaml

The run's folder holds config.yaml, log.jsonl, console.log, last.pt (to go on from), best.pt (to
test) and lowest_loss.pt (as last.pt was when the training loss was lowest). The best epoch is the
best on validation by TRAIN.SELECT_BY, and where epochs tie by a finer number of the same task; the
test split is not read here.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml
from tqdm import tqdm

from ..base import distributed
from ..base.batch import Batch, collate
from ..base.errors import InputError, WorkerDied
from ..base.files import link_file
from ..base.installed import typed
from ..base.runtime import Runtime
from ..base.terminal import count, duration, print_wrapped, shown_path
from ..config.config import dump_config, load_config
from ..datasets import build_loader
from ..datasets.dense import DenseParagraphs, EpochBatches
from ..datasets.fingerprint import fingerprint, require_recipe
from ..datasets.packed_words import FILE as WORDS
from ..datasets.packed_words import link_words, pack_words
from ..datasets.standardization import Standardization
from ..evaluation import headline_lines
from ..evaluation.comparison import BOOKKEEPING
from ..evaluation.records import Predictions, Truth
from ..evaluation.retrieval import similarity_scale
from ..training import checkpoint, nonfinite
from ..training.build import (
    add_common_flags,
    cache_folder,
    open_batch_gradient,
    open_corpus,
    open_model,
    open_optimization,
    open_runtime,
    open_scorer,
    provenance_of,
    resolve,
    run_folder,
)
from ..training.console import Console
from ..training.diagnostics import inspect_training
from ..training.engine import train_one_epoch
from ..training.inference_state import inference_state
from ..training.loggers import RunInfo, Scalars, find_logger
from ..training.progress import Pace, Progress
from ..training.reporting import EpochTable, describe_change
from ..training.run import Run
from ..training.scorer import calibration_lines, metric
from ..training.selection import better, finer_metric, ties, value_of

LOWEST = "lowest_loss.pt"
LOGGER_ID = "logger.txt"
PROBED = 16  # paragraphs; diagnostics of a batch of 128 would take 3 % of an epoch of ActivityNet's


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run's last.pt (start if there is none)",
    )
    start.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    return parser.parse_args()


def main() -> None:
    with Console() as console, Scalars() as scalars:
        train_experiment(parse_arguments(), console, scalars)


def train_experiment(args: argparse.Namespace, console: Console, scalars: Scalars) -> None:
    config = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    train = config.TRAIN
    folder = run_folder(args.cfg, config)
    resuming = args.resume and (folder / "config.yaml").is_file()
    if resuming:
        refuse_changes(folder, config)
    elif not args.overwrite and (folder / "config.yaml").exists():
        Run.create(folder, "")  # refuses, before anything is loaded

    open_logger = find_logger(config.LOGGER)
    runtime = open_runtime(config)
    say = print_wrapped if distributed.is_main() else silence
    saved = last_state(folder, runtime) if resuming else None
    with distributed.main_first():
        corpus = open_corpus(config, ("train", "val"), trained=saved)
    for line in corpus.lines():
        say(line)
    model = open_model(config, corpus, runtime)
    sampler = EpochBatches(
        len(corpus["train"]),
        train.BATCH_SIZE,
        seed=train.SEED,
        share=(distributed.rank(), distributed.world_size()),
    )
    batch_gradient = open_batch_gradient(config, model, runtime)
    optimization = open_optimization(config, model, sampler.total)
    batches = build_loader(
        corpus["train"],
        batch_size=train.BATCH_SIZE,
        workers=config.WORKERS,
        sampler=sampler,
        pin_memory=runtime.pin_memory,
    )
    scorer = open_scorer(config, corpus["val"], runtime)
    scorer.require(train.SELECT_BY, model)
    experiment = checkpoint.identity(config, corpus.dims)
    probe = probe_of(corpus["val"], train)
    features = fingerprint(corpus.features)
    if corpus.standardization is not None:
        features["standardization"] = corpus.standardization.state()
    carried = inference_state(config, corpus)
    about = provenance_of(config, corpus, runtime, features)
    started = time.monotonic()

    run: Run | None = None  # of the one process that writes
    progress, earlier = Progress(), 0.0
    if resuming:
        run = Run.open(folder) if distributed.is_main() else None
        if saved is not None:
            progress, earlier = restore(saved, model, optimization, config, corpus, features)
        say(f"{shown_path(folder)}: going on at epoch {progress.epoch + 1}, step {progress.step}")
    elif distributed.is_main():
        run = Run.create(folder, dump_config(config), overwrite=args.overwrite)
        say(f"{shown_path(folder)}: a new run of {count(train.EPOCHS, 'epoch')}")
    del saved
    weights = sum(p.numel() for p in model.parameters())
    where = f"{runtime.device}"
    if distributed.world_size() > 1:
        where = f"{distributed.world_size()} processes, each on a {runtime.device.type}"
    say(f"{config.MODEL.NAME}: {count(weights, 'parameter')} on {where}")
    if run is not None:
        if resuming:
            run.truncate_log(epoch=progress.epoch - 1)
            run.write_text("config.yaml", dump_config(config))  # a longer run is no other run
            if progress.step == 0 and progress.epoch:
                keep_lowest(run)  # as the run may have been killed before it did
        console.attach(run.own("console.log"), append=resuming)
        run.own(WORDS)
        if corpus.vector_file is not None:
            width = corpus.vocabulary.vectors.dim
            link_words(pack_words(corpus.vector_file, cache_folder(config), width=width), folder)
        log_dir = folder
        if config.LOG_DIR:
            log_dir = resolve(config.LOG_DIR) / folder.relative_to(resolve(config.MODEL_DIR))
        if open_logger is not None:
            about_it = about_run(run, config, log_dir, progress.epoch)
            scalars.open(open_logger, config.LOGGER, about_it)
        for name in scalars.files if log_dir == folder else ():
            run.own(name)
        for name in ("last.pt", *(kept_name(epoch) for _, epoch in progress.kept)):
            run.own(name)  # as a run of an earlier release did not

    def hours_now() -> float:
        return earlier + (time.monotonic() - started) / 3600

    def state_now() -> dict[str, Any]:
        """What every checkpoint holds."""
        return {
            "model": model.state_dict(),
            "experiment": experiment,
            "features": features,
            "empty_moments": corpus.empty_moments,
            "decoding": dataclasses.asdict(scorer.decoding),
            "provenance": {**about, "hours": round(hours_now(), 4)},
        }

    def save_last() -> None:
        if run is None:
            return
        state = {
            "optimizer": optimization.state_dict(),
            "progress": dataclasses.asdict(progress),
            "epoch": progress.epoch,
        }
        checkpoint.save(run.own("last.pt"), state_now() | state)
        if not run.path(LOWEST).exists():
            link_file(run.path("last.pt"), run.own(LOWEST))

    def save_without_worker(fault: WorkerDied) -> NoReturn:
        """A loader process is gone, and the step before it is done."""
        save_last()
        if run is None:
            raise fault
        raise WorkerDied(
            f"{fault}; epoch {progress.epoch + 1}, step {progress.step} is saved, and the same "
            "command with --resume goes on from there"
        )

    stop, epochs = StopSignal(), EpochTable(train.EPOCHS, train.SELECT_BY)
    steps_done = progress.epoch * sampler.total + progress.step
    pace = Pace(train.EPOCHS * sampler.total, steps_done)
    while progress.epoch < train.EPOCHS:
        epoch, began = progress.epoch, time.monotonic()
        sampler.set_epoch(epoch, first_batch=progress.step)
        bar = tqdm(
            total=sampler.total,
            initial=progress.step,
            desc=f"epoch {epoch + 1}/{train.EPOCHS}",
            disable=None if args.verbose and run is not None else True,  # None: if watched
            leave=False,
            dynamic_ncols=True,
        )

        def after_step(progress: Progress, bar: tqdm = bar, began: float = began) -> None:
            bar.update()
            if progress.step % train.LOG_EVERY == 0:
                means = {k: f"{v:.3g}" for k, v in progress.means().items()}
                left = duration(pace.left(progress.epoch * sampler.total + progress.step))
                bar.set_postfix_str(f"loss {means['total']}, {left} left", refresh=False)
                if bar.disable:
                    took = duration(time.monotonic() - began)
                    terms = " ".join(f"{k} {v}" for k, v in means.items() if k != "total")
                    say(
                        f"  step {progress.step}/{sampler.total}: loss {means['total']}, {took}, "
                        f"about {left} left{f'; {terms}' if args.verbose else ''}"
                    )
            if progress.epoch == 0 and progress.step == 1 and run is not None:
                warn_of_unreached(optimization.unreached())
            every = train.CHECKPOINT_EVERY
            (asked,) = max(distributed.gather_numbers([stop.asked]))
            if asked or (every and progress.step % every == 0):
                save_last()
            if asked:
                say(
                    f"\n{signal.Signals(asked).name}: saved epoch {progress.epoch + 1}, "
                    f"step {progress.step}; the same command with --resume goes on from there"
                )
                distributed.wait()  # a process that leaves has the others ended
                sys.exit(128 + asked)

        try:
            train_one_epoch(
                model,
                batches,
                optimization,
                runtime,
                progress,
                seed=train.SEED,
                max_grad_norm=train.MAX_GRAD_NORM,
                batch_gradient=batch_gradient,
                on_step=after_step,
            )
        except nonfinite.NotFinite as fault:
            bar.close()
            stop_not_finite(fault, run, model, optimization, progress, config, experiment, runtime)
        except WorkerDied as fault:
            save_without_worker(fault)
        bar.close()
        means, done = progress.means(), (epoch + 1) * sampler.total
        record: dict[str, Any] = {"epoch": epoch, "lr": optimization.lr}
        record["train"] = means
        if (epoch + 1) % train.VALIDATE_EVERY == 0 or epoch + 1 == train.EPOCHS:
            distributed.same_buffers(model)
            try:
                predictions = scorer.predict(model)
            except WorkerDied as fault:
                save_without_worker(fault)
            inspection = inspect_training(model, optimization, probe, runtime, seed=train.SEED)
        else:
            predictions = None
        if run is not None and predictions is not None:
            summary = scorer.summarise(predictions, resamples=0)
            record |= {key: summary[key] for key in ("protocols", "floors", "diagnostics")}
            record["inspection"] = inspection
            record["calibration"] = scorer.calibration
            score = metric(summary, train.SELECT_BY)
            finer = value_of(summary["protocols"], finer_metric(train.SELECT_BY) or "")
            if finer is not None:
                progress.finer[str(epoch)] = finer
            state = state_now() | {
                "epoch": epoch,
                "select_by": train.SELECT_BY,
                "calibration": scorer.calibration,
                "validation": summary,
                "inference": carried | {"similarity_scale": scale_of(predictions, scorer.truth)},
            }
            best = (progress.best_score, progress.finer.get(str(progress.best_epoch)))
            if best[0] is None or better(train.SELECT_BY, (score, finer), (best[0], best[1])):
                progress.best_score, progress.best_epoch = score, epoch
                checkpoint.save(run.own("best.pt"), state)
            keep_best(run, state, score, progress, count=train.KEEP_BEST)
            record["best_epoch"] = progress.best_epoch
            times = {"seconds": time.monotonic() - began, "left": pace.left(done)}
            rows = epochs.rows(epoch, means, summary, progress, **times)
            print("\n".join(rows), flush=True)
            for warning in epochs.warnings(summary):
                say(warning)
        elif run is not None:
            times = {"seconds": time.monotonic() - began, "left": pace.left(done)}
            print(epochs.unscored(epoch, means, **times), flush=True)
        if run is not None:
            record["seconds"] = round(time.monotonic() - began, 2)
            run.log(record)
            scalars.write(record)
        progress.epoch, progress.step, progress.sums = epoch + 1, 0, {}
        save_last()
        if run is not None:
            keep_lowest(run)

    if run is not None:
        finish(run, config, hours_now())


def scale_of(predictions: Predictions, truth: Truth) -> float:
    """What a similarity is worth in a search within a long video; 0 if the model ranks none."""
    if not isinstance(predictions.similarity, np.ndarray):
        return 0.0
    sentences = len(truth.sentence_paragraph) / len(truth.paragraph_ids)
    return similarity_scale(predictions.similarity, truth.paragraph_video, sentences)


def silence(_: str) -> None:
    """What all processes but one print."""


def probe_of(split: DenseParagraphs, train: Any) -> Batch:
    """A batch for diagnostics: not trained on, and without moments where training has none."""
    batch = collate([split[i] for i in range(min(len(split), train.BATCH_SIZE, PROBED))])
    if train.SUPERVISION == "weak":
        batch = dataclasses.replace(batch, moments=batch.moments * float("nan"))
    return batch


def about_run(run: Run, config: Any, folder: Path, epoch: int) -> RunInfo:
    """What a logger gets to know of a run. The run's id is in its folder, so that a curve goes on
    with the run, and a run that replaces it has a curve of its own."""
    path = run.path(LOGGER_ID)
    if not path.exists():
        run.write_text(LOGGER_ID, secrets.token_hex(4) + "\n")
    return RunInfo(
        project=run.folder.parent.name,
        name=run.folder.name,
        id=path.read_text("utf-8").strip(),
        folder=folder,
        config=yaml.safe_load(dump_config(config)),
        first_step=epoch,
    )


def refuse_changes(folder: Path, config: Any) -> None:
    """A run goes on as it was started; only its length and its machine may change.

    Raises:
        InputError: names every other option that differs.
    """
    before = load_config(folder / "config.yaml")
    changes = describe_change(before, config, ignore=BOOKKEEPING | {"TRAIN.EPOCHS"})
    if changes:
        raise InputError(
            f"{folder}: --resume goes on with the options that the run was started with, but "
            f"{'; '.join(changes)}; start another run by --tag, or replace this one by --overwrite"
        )


def last_state(folder: Path, runtime: Runtime) -> dict[str, Any] | None:
    """The state in last.pt; None for a run that was killed before its first, and begins anew."""
    path = folder / "last.pt"
    needs = ("model", "experiment", "optimizer", "progress")
    if not path.exists():
        return None
    return checkpoint.load(path, map_location=runtime.device, needs=needs)


def restore(
    state: dict[str, Any],
    model: Any,
    optimization: Any,
    config: Any,
    corpus: Any,
    features: dict[str, Any],
) -> tuple[Progress, float]:
    """Continue at the state in last.pt; the progress, and the hours spent."""
    require_recipe(state.get("features", {}), features, str(corpus.features))
    checkpoint.check_matches(state, config, corpus.dims)
    kept = Standardization.of_checkpoint(state, wanted=config.DATASET.STANDARDIZE)
    if kept is not None:
        kept.require_same(corpus.standardization)
    checkpoint.load_into(model, state)
    optimization.load_state_dict(state["optimizer"])
    return Progress(**state["progress"]), state.get("provenance", {}).get("hours", 0.0)


def keep_best(
    run: Run, state: dict[str, Any], score: float, progress: Progress, *, count: int
) -> None:
    """Hold the best ``count`` epochs as best-EPOCH.pt; EPOCH counts from 1, as the lines do."""
    mine = (score, progress.finer.get(str(state["epoch"])))
    place = sum(
        not better(state["select_by"], mine, (other, progress.finer.get(str(epoch))))
        for other, epoch in progress.kept
    )
    progress.kept.insert(place, (score, state["epoch"]))
    dropped = [epoch for _, epoch in progress.kept[count:]]
    del progress.kept[count:]
    if place < count:
        checkpoint.save(run.own(kept_name(state["epoch"])), state)
    for epoch in dropped:
        run.remove(kept_name(epoch))


def keep_lowest(run: Run) -> None:
    """Hold the end of the epoch whose loss was the lowest so far. After a divergence the weights in
    last.pt may be finite and worthless."""
    totals = [_total(record.get("train")) for record in run.records()]
    finite = [total for total in totals if total is not None]
    if finite and totals[-1] == min(finite):
        link_file(run.path("last.pt"), run.own(LOWEST))


def _total(means: Any) -> float | None:
    """The loss of an epoch in the log, which anybody may have changed."""
    total = means.get("total") if isinstance(means, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float):
        return None
    return float(total) if abs(total) < math.inf else None


def kept_name(epoch: int) -> str:
    return f"best-{epoch + 1}.pt"


def stop_not_finite(
    fault: nonfinite.NotFinite,
    run: Run | None,
    model: Any,
    optimization: Any,
    progress: Progress,
    config: Any,
    experiment: dict[str, Any],
    runtime: Runtime,
) -> NoReturn:
    """Say where the step went wrong, keep it for replay.py, and leave; checkpoints stay."""
    if run is not None:
        path = run.own(f"epoch{progress.epoch + 1}-step{progress.step + 1}.step")
        nonfinite.save_step(
            path,
            model=model,
            optimization=optimization,
            fault=fault,
            progress=progress,
            config=config,
            experiment=experiment,
        )
    origin = nonfinite.locate(
        model,
        optimization,
        fault.batch,
        seed=config.TRAIN.SEED,
        epoch=progress.epoch,
        step=progress.step,
        stage=fault.stage,
        runtime=runtime,
    )
    if run is not None:
        lines = [f"epoch {progress.epoch + 1}, step {progress.step + 1}: {fault}", *origin.lines()]
        lines.append(
            "the step was not taken; the checkpoints are as they were, of which "
            f"{LOWEST} is from before the loss grew. See it again: {typed('replay', str(path))}"
        )
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
    distributed.wait()
    sys.exit(nonfinite.EXIT_STATUS)


def warn_of_unreached(names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        print_wrapped(f"note: no active loss term reaches {shown}; they keep their initial values")


class StopSignal:
    """Ctrl-C or SIGTERM, remembered until the step is done; a second one stops at once, unless
    torchrun is there, which repeats the first, and ends a process that takes too long. What follows
    within a second is still the first: ``timeout`` signals its command and then the group.

    Attributes:
        asked: the number of the signal, 0 without one.
    """

    def __init__(self) -> None:
        self.asked, self._since = 0, 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = number, now
        elif now - self._since >= 1 and not distributed.launched():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def finish(run: Run, config: Any, hours: float) -> None:
    """Say what was best, what chose it, how long it took, and how to test it."""
    best = checkpoint.load(run.path("best.pt"))
    validation, chosen = best["validation"], best["select_by"]
    for warning in validation["warnings"]:
        print_wrapped(f"WARNING: {warning}")
    print()
    epoch = best["epoch"] + 1
    title = f"best epoch {epoch} of {config.TRAIN.EPOCHS} on validation"
    print("\n".join(headline_lines(validation, title, explained=False)))
    supervision = "saw no timestamps" if config.TRAIN.SUPERVISION == "weak" else "was supervised"
    for line in calibration_lines(best["calibration"]):
        print_wrapped(f"calibrated: {line}")
    print_wrapped(
        f"chosen by {chosen} ({metric(validation, chosen):.2f}); training {supervision} and took "
        f"{duration(3600 * hours)}"
    )
    if tied := ties(run.records(), chosen, best["epoch"]):
        print_wrapped(tied)
    print(f"test it: {typed('best_test', shown_path(run.folder))}")
