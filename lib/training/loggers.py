"""Where the numbers of a run go besides ``log.jsonl``: TensorBoard, wandb, trackio, or a logger
from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import InputError
from ..base.external import is_external, load_object
from ..videos.optional import optional

_EVENTS = "events.out.tfevents.*"


@dataclass(frozen=True)
class RunInfo:
    """What a logger gets to know of a run when it is opened.

    Attributes:
        project, name: of the run, by its folder: ``dense_activitynet`` and ``acnet``.
        id: the same whenever the run goes on, and that of no other run.
        folder: for the logger's files.
        config: every option, resolved.
        first_step: the first epoch, from 0, that will be logged; what an earlier process logged
            from there on is logged again.
    """

    project: str
    name: str
    id: str
    folder: Path
    config: dict[str, Any]
    first_step: int


class Logger(Protocol):
    """What takes the numbers of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an epoch, by name; ``step`` counts epochs from 0."""

    def close(self) -> None:
        """The run has ended, or is stopped."""


Opener = Callable[[RunInfo], Logger]


def find_logger(name: str) -> Opener | None:
    """What opens the logger of an experiment; None for none.

    Args:
        name: ``auto`` (TensorBoard where it is installed), ``none``, ``tensorboard``, ``wandb``,
            ``trackio``, or ``module:function`` or ``file.py:function``, which is called with a
            ``RunInfo`` and returns a ``Logger``.

    Raises:
        InputError: a package is not installed, or there is no such function.
    """
    if name == "none":
        return None
    if is_external(name):
        opener = load_object(name)
        if not callable(opener):
            raise InputError(f"LOGGER: {name} cannot be called, expected a function of a RunInfo")
        return opener
    if name == "auto":
        try:
            return _tensorboard()
        except InputError:
            return None
    return {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}[name]()


def _tensorboard() -> Opener:
    optional("tensorboard", "tensorboard", "LOGGER: tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    class TensorBoard:
        def __init__(self, run: RunInfo) -> None:
            there = set(run.folder.glob(_EVENTS))
            self.writer = SummaryWriter(str(run.folder), purge_step=run.first_step)
            self.files = sorted(path.name for path in set(run.folder.glob(_EVENTS)) - there)

        def log(self, step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()

        def close(self) -> None:
            self.writer.close()

    return TensorBoard


def _wandb() -> Opener:
    wandb = optional("wandb", "wandb", "LOGGER: wandb")

    def open_run(run: RunInfo) -> Logger:
        return _Run(
            wandb.init(
                project=run.project,
                name=run.name,
                id=run.id,
                resume="allow",
                dir=str(run.folder),
                config=run.config,
            )
        )

    return open_run


def _trackio() -> Opener:
    trackio = optional("trackio", "trackio", "LOGGER: trackio")

    def open_run(run: RunInfo) -> Logger:
        name = f"{run.name}-{run.id}"  # by which trackio knows the run again
        return _Run(trackio.init(project=run.project, name=name, resume="allow", config=run.config))

    return open_run


class _Run:
    """A run of wandb, or of trackio, which has the same methods. Both keep what they have of an
    epoch: one that is logged again after a kill was computed to the same numbers."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Scalars:
    """The logger of a run. One that fails stops no training: it is reported, and left.

    Attributes:
        files: names of what it writes in the folder, where it has them as ``files``.
    """

    def __init__(self) -> None:
        self.logger: Logger | None = None
        self.name = ""
        self.files: list[str] = []

    def open(self, opener: Opener, name: str, run: RunInfo) -> None:
        """Open a logger.

        Raises:
            InputError: it cannot be opened; nothing is trained yet.
        """
        try:
            logger = opener(run)
        except Exception as fault:  # whatever a service or a stranger's function raises
            raise InputError(f"LOGGER: {name} cannot be opened ({_reason(fault)})") from None
        lacking = [method for method in ("log", "close") if not hasattr(logger, method)]
        if lacking:
            raise InputError(
                f"LOGGER: {name} returned a {type(logger).__name__} without {lacking[0]}, "
                "expected an object with log(step, values) and close()"
            )
        self.logger, self.name = logger, name
        self.files = list(getattr(logger, "files", []))

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of a log record, under its path; the step is its epoch."""
        values = {
            key.replace(".", "/"): float(value)
            for key, value in leaves(record)
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "epoch"
        }
        self._call("log", record["epoch"], values)

    def _call(self, method: str, *arguments: Any) -> None:
        if self.logger is None:
            return
        try:
            getattr(self.logger, method)(*arguments)
        except Exception as fault:
            self.logger = None
            print(
                f"WARNING: LOGGER {self.name} failed ({_reason(fault)}) and gets no more numbers; "
                "log.jsonl has them"
            )

    def __enter__(self) -> Scalars:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("close")


def _reason(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())}"[:200]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their paths, keys joined by dots; tuples as lists."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple | list) else value
