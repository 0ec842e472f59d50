"""All options that an experiment can set, and how a value is checked against a type hint.

The keywords of models, losses and the synthetic world are not repeated here: their signatures are
their schema (``keywords``).
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any, Literal

from ..datasets.options import CorpusOptions
from ..decoding import Decoding


@dataclass(frozen=True)
class Limit:
    """What a value must satisfy beyond its type; for a list, each of its elements."""

    text: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Option:
    """One thing that can be set. Without a default (MISSING) it is required."""

    hint: Any
    default: Any
    help: str
    limit: Limit | None = None


def within(low: int | float, high: int | float = math.inf) -> Limit:
    """A range of numbers, both ends allowed."""
    text = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
    return Limit(text, lambda x: low <= x <= high)


def between(low: int | float, high: int | float) -> Limit:
    """A range of numbers, neither end allowed."""
    return Limit(f"above {low} and below {high}", lambda x: low < x < high)


def _matches(pattern: str, text: str) -> Limit:
    return Limit(text, lambda value: re.fullmatch(pattern, value) is not None)


COUNT = within(1)
NOT_NEGATIVE = within(0)
POSITIVE = Limit("above 0", lambda x: x > 0)
DECAY = Limit("above 0 and at most 1", lambda x: 0 < x <= 1)
PART = between(0, 1)
SHARE = Limit("of at least 0 and below 1", lambda x: 0 <= x < 1)
UNIT = within(0, 1)
SEED = within(0, 2**32 - 1)
DEVICE = _matches(r"|cpu|-1|\d+", "that is empty, cpu, -1 or the number of a GPU")
LABEL = _matches(r"[\w.+=,-]*", "of letters, digits and _ . + = , -")
_RELATIVE = (
    "relative to the repository, or, where this is installed, to the current folder; on the command"
    " line always to the current folder."
)
LOGGER = _matches(
    r"auto|none|tensorboard|wandb|trackio|.+:\w+",
    "that is auto, none, tensorboard, wandb, trackio, or a reference module:function",
)
METRIC = _matches(r"[\w.-]+/\S.*", "of the form protocol/metric, such as vr/R@10")

Section = dict[str, Option]


def dataclass_options(kind: Any, *, capitals: bool = False) -> Section:
    """The fields of a dataclass as options, from their types, defaults and metadata: ``help``, and
    ``low`` and ``high`` of a number."""
    hints = typing.get_type_hints(kind)
    section = {}
    for field in dataclasses.fields(kind):
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        limit = None
        if hints[field.name] in (int, float):
            low, high = field.metadata["low"], field.metadata["high"]
            limit = (between if field.metadata.get("open") else within)(low, high)
        name = field.name.upper() if capitals else field.name
        section[name] = Option(hints[field.name], default, field.metadata["help"], limit)
    return section


SCHEMA: dict[str, Option | Section] = {
    "WORKERS": Option(int, 2, "Processes that load data; 0 loads in the main one.", NOT_NEGATIVE),
    "DATA_DIR": Option(str, "data", "Folder of the corpora; " + _RELATIVE),
    "MODEL_DIR": Option(str, "save", "Folder of the runs; " + _RELATIVE),
    "LOG_DIR": Option(str, "", "Folder of the logger's files; empty = the run's own."),
    "LOGGER": Option(
        str,
        "auto",
        "Where scores and losses go besides log.jsonl: auto = TensorBoard where it is installed,"
        " none, tensorboard, wandb, trackio, or module:function or file.py:function, which is"
        " called with a lib.training.loggers.RunInfo.",
        LOGGER,
    ),
    "GPUS": Option(
        str,
        "",
        "Device: empty = the first GPU if there is one, cpu or -1 = CPU, 0 = GPU 0.",
        DEVICE,
    ),
    "TAG": Option(str, "", "Added to the run folder's name, to keep runs apart.", LABEL),
    "DATASET": {
        "NAME": Option(
            str,
            MISSING,
            "The corpus: activitynet, charades, synthetic, tacos, or any name for one that"
            " ANNOTATIONS and FEATURES describe.",
        ),
        **dataclass_options(CorpusOptions, capitals=True),
        "SYNTHETIC": Option(dict, {}, "Knobs of the synthetic world; with NAME synthetic only."),
    },
    "MODEL": {
        "NAME": Option(
            str, MISSING, "The model; one from outside as package.module:Class or file.py:Class."
        ),
        "PARAMS": Option(dict, {}, "Keyword arguments of its constructor."),
    },
    "LOSS": {
        "WEIGHTS": Option(
            dict,
            {},
            "Weight of each loss term; a term without one, or with 0, is not computed. A term from"
            " outside is package.module:function or file.py:function.",
        ),
        "PARAMS": Option(dict, {}, "Keyword arguments of the model's losses."),
    },
    "TRAIN": {
        "SUPERVISION": Option(
            Literal["weak", "full"], "weak", "weak = no timestamp reaches training."
        ),
        "EPOCHS": Option(int, 100, "Passes over the training paragraphs.", COUNT),
        "BATCH_SIZE": Option(int, 16, "Paragraphs per step.", COUNT),
        "OPTIMIZER": Option(
            Literal["adam", "adamw", "bert_adam", "sgd"],
            "adam",
            "bert_adam has a schedule of its own (WARMUP), and clips tensor by tensor; sgd has"
            " MOMENTUM.",
        ),
        "LR": Option(float, 1e-4, "Learning rate.", POSITIVE),
        "BETA2": Option(float, 0.999, "Decay of the mean of squared gradients.", PART),
        "MOMENTUM": Option(float, 0.9, "Share of sgd's last step in the next.", SHARE),
        "WEIGHT_DECAY": Option(float, 0.0, "Weight decay.", NOT_NEGATIVE),
        "LR_DECAY": Option(float, 0.8, "Factor on the learning rate …", DECAY),
        "LR_DECAY_EVERY": Option(int, 20, "… every so many epochs …", COUNT),
        "LR_MILESTONES": Option(
            list[int], [], "… or after each of these numbers of epochs instead.", COUNT
        ),
        "WARMUP": Option(
            float, 0.01, "Share of all steps in which bert_adam warms up; then down to 0.", UNIT
        ),
        "WARMUP_STEPS": Option(
            int,
            0,
            "Steps in which the rate climbs from 0 to LR, to fall with the root of their number"
            " afterwards, instead of LR_DECAY; 0 = by epochs.",
            NOT_NEGATIVE,
        ),
        "PARAMS": Option(dict, {}, "Keyword arguments of the model's plan, if it has one."),
        "MAX_GRAD_NORM": Option(
            float, 10.0, "Gradients are scaled down to this norm; 0 = never.", NOT_NEGATIVE
        ),
        "SEED": Option(int, 0, "Seed of everything drawn.", SEED),
        "SELECT_BY": Option(
            str,
            "vr/R@10",
            "Protocol and metric, on validation, that choose the checkpoint.",
            METRIC,
        ),
        "VALIDATE_EVERY": Option(int, 1, "Epochs between validations.", COUNT),
        "LOG_EVERY": Option(int, 50, "Steps between log lines.", COUNT),
        "CHECKPOINT_EVERY": Option(
            int, 0, "Steps between saves inside an epoch; 0 = only at its end.", NOT_NEGATIVE
        ),
        "KEEP_BEST": Option(
            int, 0, "So many best epochs also stay as best-EPOCH.pt.", NOT_NEGATIVE
        ),
        "DETERMINISTIC": Option(
            bool, False, "Refuse GPU operations that can differ from run to run; slower."
        ),
        "ACCUMULATE": Option(
            int,
            1,
            "Parts in which a batch is encoded, with the gradient of the whole batch: for batches"
            " that do not fit the memory; costs the forward pass once more.",
            COUNT,
        ),
        "PRECISION": Option(
            Literal["float32", "bfloat16"],
            "float32",
            "In which matrices are multiplied while training; bfloat16 pays on GPUs, and on"
            " processors that have it (AMX).",
        ),
        "COMPILE": Option(
            bool,
            False,
            "Translate the model by torch.compile, which takes minutes at the start: for long runs"
            " on a GPU.",
        ),
        "RECOMPUTE_MAP": Option(
            bool,
            False,
            "Compute the map's layers again in the backward pass instead of keeping what they need:"
            " for large maps; costs their forward pass.",
        ),
        "FUSED": Option(bool, True, "adam and adamw in one pass over the weights."),
    },
    "DECODE": dataclass_options(Decoding, capitals=True),
    "TEST": {
        "BATCH_SIZE": Option(int, 32, "Paragraphs per step.", COUNT),
        "PAIRS": Option(
            int,
            128,
            "Sentences grounded at once, each in one video, of those of a step; bounds memory.",
            COUNT,
        ),
        "NMS_IOU": Option(float, 0.5, "Overlap above which a lesser moment is dropped.", UNIT),
        "NMS_ROUNDED": Option(
            bool,
            False,
            "Compare those overlaps in rounded seconds, as 2D-TAN's release does: on its grid some"
            " that are NMS_IOU come out above it, and R@5 moves by up to two points; R@1 does not.",
        ),
        "MOMENTS": Option(int, 10, "Moments kept per sentence.", COUNT),
        "IOU": Option(list[float], [0.3, 0.5, 0.7], "Overlaps at which a moment counts.", UNIT),
        "GROUNDING_N": Option(list[int], [1, 5], "n of grounding's R@n.", COUNT),
        "RETRIEVAL_K": Option(list[int], [1, 5, 10, 100], "k of retrieval's R@k.", COUNT),
        "CANDIDATES": Option(
            int,
            10,
            "Best videos of each paragraph that its sentences are grounded in, for the joint"
            " protocols of the test; 0 = none.",
            NOT_NEGATIVE,
        ),
        "QUERYBANK": Option(
            int,
            0,
            "Training paragraphs, drawn where there are more, by which best_test.py normalises"
            " retrieval (vr_querybank): a video that many of them are near to has to be nearer."
            " 0 = none.",
            NOT_NEGATIVE,
        ),
        "RESAMPLES": Option(
            int, 1000, "Bootstrap draws of paragraphs for the intervals; 0 = none.", NOT_NEGATIVE
        ),
        "CORRUPTION": Option(
            Literal["none", "time_shuffled", "video_mean"],
            "none",
            "What best_test.py does to the videos that it scores, to see whether grounding then"
            " ends at its prior: blocks of rows in random order, or the video's mean in every row."
            " Such results go to files of their own.",
        ),
        "CORRUPTION_BLOCKS": Option(int, 8, "Blocks of time_shuffled.", within(2)),
        "CORRUPTION_NOISE": Option(
            float,
            1.0,
            "Noise of video_mean, as a share of the rows' own deviation in the video.",
            NOT_NEGATIVE,
        ),
    },
}

# The original command line's flags, and the option each one sets.
FLAGS = {
    "gpus": "GPUS",
    "workers": "WORKERS",
    "dataDir": "DATA_DIR",
    "modelDir": "MODEL_DIR",
    "logDir": "LOG_DIR",
    "tag": "TAG",
}
# Options that are paths: on the command line relative to the current folder, as --cfg is.
PATHS = {
    *(("DATA_DIR",), ("MODEL_DIR",), ("LOG_DIR",), ("DATASET", "CACHE_DIR")),
    ("MODEL", "PARAMS", "text_encoder"),
}
NO_PATHS = ("", "lstm")  # values of these that are none


class Refused(Exception):
    """Why a file or a value cannot be used, as the rest of a sentence that begins with its name."""


def keywords(function: Callable[..., Any], doc: str | None = None) -> Section:
    """The keyword-only parameters of a function or class as options; the signature is the schema.

    Each explanation is the parameter's entry under ``Args:`` of ``doc`` (default: the function's
    docstring and, for a class, its constructor's).
    """
    if inspect.isclass(function):
        target = function.__init__
        if any(
            p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values()
        ):  # passed on to the class that it derives from
            keywords_of_class = _own_keywords(target, doc or _docs(function, target))
            inherited = keywords(function.__mro__[1])
            return keywords_of_class | {
                name: option for name, option in inherited.items() if name not in keywords_of_class
            }
    else:
        target = function
    return _own_keywords(target, doc or _docs(function, target))


def _docs(*functions: Any) -> str:
    return "\n".join(inspect.cleandoc(f.__doc__) for f in dict.fromkeys(functions) if f.__doc__)


def _own_keywords(target: Any, doc: str) -> Section:
    hints = typing.get_type_hints(target)
    return {
        name: Option(
            hints.get(name, Any),
            MISSING if parameter.default is parameter.empty else parameter.default,
            _explained(name, doc),
        )
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def fit_option(value: Any, option: Option) -> Any:
    try:
        fitted = fit(value, option.hint)
        values = fitted if isinstance(fitted, list) else [fitted]
        if option.limit is None or (
            (values or fitted == option.default) and all(map(option.limit.holds, values))
        ):
            return fitted
    except Refused:
        pass
    limit = f" {option.limit.text}" if option.limit else ""
    raise Refused(f"is {shown(value)}, expected {kind_of(option.hint)}{limit}")


def fit(value: Any, hint: Any) -> Any:
    """The value as the hint has it (an int becomes a float, a list a tuple) or ``Refused``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for choice in inner:
            try:
                return fit(value, choice)
            except Refused:
                continue
    elif origin is Literal:
        for choice in inner:
            if type(choice) is type(value) and choice == value:
                return value
    elif hint is float and number and abs(value) < 1e300:  # also refuses nan and inf
        return float(value)
    elif hint is int and number and isinstance(value, int) and abs(value) < 2**63:
        return value
    elif hint is str and number and isinstance(value, int) and abs(value) < 2**63:
        return str(value)  # GPUS: 0, TAG: 7
    elif hint in (str, bool, type(None)) and isinstance(value, hint):
        if not isinstance(value, str) or value.isprintable():
            return value
    elif origin is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(fit(v, kind) for v, kind in zip(value, kinds, strict=True))
    elif inspect.isclass(origin) and issubclass(list, origin) and isinstance(value, list):
        return [fit(v, inner[0]) for v in value]
    elif inspect.isclass(origin) and issubclass(dict, origin) and isinstance(value, dict):
        return {k: fit(v, inner[1]) for k, v in value.items()}
    raise Refused(f"is {shown(value)}, expected {kind_of(hint)}")


def kind_of(hint: Any) -> str:
    """A type hint in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_of(choice) for choice in inner)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in inner)
    if origin is tuple and inner[-1:] != (...,):
        return f"list of {len(inner)} values"
    if inspect.isclass(origin) and issubclass(dict, origin):
        return f"mapping to {kind_of(inner[1])}"
    if origin is not None and inner:
        return f"list of {kind_of(inner[0])}"
    names = {str: "text", bool: "true or false", type(None): "nothing", dict: "mapping"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def shown(value: Any) -> str:
    """A value as an error message shows it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"a whole number above 10^{len(str(abs(value))) - 1} (int)"
    if isinstance(value, int | float):
        digits = str(value) if abs(value) < 10**20 or not math.isfinite(value) else f"{value:.3e}"
        return f"{digits} ({type(value).__name__})"
    if isinstance(value, str):
        return f"{value[:40] + '…' * (len(value) > 40)!r} (text)"
    text = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else "a mapping"
    return text if len(text) <= 60 else f"a list of {len(value)}"


def _explained(name: str, doc: str) -> str:
    """A parameter's entry under ``Args:`` of a Google-style docstring, on one line."""
    entry = re.search(rf"^ +(?:\w+, )*{name}(?:, \w+)*: (.*(?:\n {{6,}}\S.*)*)", doc, re.MULTILINE)
    return " ".join(entry[1].split()) if entry else ""
