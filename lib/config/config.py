"""Reads an experiment strictly: what ``options.py`` does not know is refused.

An experiment is a YAML file, possibly with one parent (``BASE``). All faults of all files are
collected before any is reported, so that one edit can fix them all. Only the scripts read a
configuration; all other modules take keyword arguments.

A child overrides its parent key by key, also inside ``LOSS.WEIGHTS`` and the ``PARAMS`` sections.
A child that names another model starts these sections empty, because they belong to the parent's
model, unless its model derives from the parent's; one that names another corpus likewise drops what
describes the parent's (``OF_CORPUS``).

``python -m lib.config.config > docs/options.md`` writes the reference page, and with the name of a
model behind it prints that model's keywords.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from easydict import EasyDict

from ..base.errors import InputError
from ..base.external import absolute, is_external
from ..base.installed import INSTALLED, home
from ..datasets.catalog import CORPORA, facts
from ..datasets.options import CorpusOptions
from ..datasets.synthetic import WorldOptions
from ..models import MODELS
from .external import find_model, find_term
from .options import (
    FLAGS,
    NO_PATHS,
    NOT_NEGATIVE,
    PATHS,
    SCHEMA,
    Option,
    Refused,
    Section,
    dataclass_options,
    fit,
    fit_option,
    keywords,
    kind_of,
)
from .renamed import RENAMED
from .strict_yaml import (
    MAX_VALUES,
    Unparsable,
    compose,
    dump,
    mapping_of,
    node_of,
    read_text,
    value_of,
)

_MAX_FAULTS = 50
WEIGHT = Option(float, 0.0, "", NOT_NEGATIVE)
# Options of DATASET that describe one corpus and no other.
OF_CORPUS = (
    *("TITLE", "DIR", "ANNOTATIONS", "SPLITS", "PARAGRAPHS", "ORDER", "CUT_DESCRIPTIONS"),
    *("MIN_SENTENCES", "FEATURES", "FEATURE_DIM", "FEATURE_MEMBER", "SECONDS_PER_ROW"),
    *("WORD_FEATURES", "NOTES", "SYNTHETIC"),
)


def load_config(
    path: str | Path,
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    decode: str | Path | None = None,
    models: Mapping[str, Any] | None = None,
) -> EasyDict:
    """Read an experiment and its parents, check them, and fill in every default.

    Args:
        path: the YAML file; error lines show it as given here.
        overrides: ``SECTION.KEY=VALUE`` texts of ``--set``, VALUE being YAML. Later ones win. Paths
            in them, and in ``flags``, are relative to the current folder and become absolute.
        flags: values of the command line's flags by name (``FLAGS``). None means not given and
            other names are passed over, so that ``vars(args)`` will do. Flags win over ``--set``.
        decode: a YAML file, with its parents, whose DECODE section replaces the experiment's;
            ``--set`` still overrides it.
        models: name -> class; ``lib.models.MODELS`` if left out.

    Returns:
        All options of ``SCHEMA``, with the keywords of model, losses and synthetic world filled in.

    Raises:
        InputError: one line for every fault in any of the files and flags.
    """
    report = _Report()
    layers = _read_chain(Path(path), report)
    if decode is not None:
        layers = [{k: v for k, v in layer.items() if k[0] != "DECODE"} for layer in layers]
        others = _read_chain(Path(decode), report)
        layers += [{k: v for k, v in layer.items() if k[0] == "DECODE"} for layer in others]
    layers.append(_read_command_line(overrides, flags or {}, report))
    if report.unreadable:  # other messages could mislead
        report.raise_if_any()
    models = models or MODELS
    merged = _merge(layers, models)
    config = _Resolver(merged, models, report, _Location(0, 0, str(path))).resolve()
    report.raise_if_any()
    return EasyDict(_rooted(config) if INSTALLED else config)


def dump_config(config: Mapping[str, Any]) -> str:
    """A resolved configuration as YAML that ``load_config`` reads back to the same values."""
    return "# All options of this run, resolved.\n" + dump(_plain(config))


def experiment_name(path: str | Path) -> str:
    """The path below ``experiments/`` without suffix; outside of such a folder, the file's name.

    ``…/experiments/dense_activitynet/acnet.yaml`` -> ``dense_activitynet/acnet``.
    """
    *folders, name = Path(os.path.abspath(path)).with_suffix("").parts
    if "experiments" not in folders:
        return name
    below = len(folders) - folders[::-1].index("experiments")
    return "/".join([*folders[below:], name])


def explain(models: Mapping[str, Any] | None = None) -> str:
    """Every option with type, default and meaning, as a Markdown page."""
    top = {name: option for name, option in SCHEMA.items() if isinstance(option, Option)}
    blocks = [
        "# Options of an experiment",
        "Written by `python -m lib.config.config > docs/options.md`; a test keeps it current.",
        "An experiment is a YAML file. `BASE: other.yaml` names one parent, relative to the file; "
        "the file then states only what differs. Sections are merged key by key, `LOSS.WEIGHTS` "
        "and `PARAMS` included; a file that names another model starts these empty, unless that "
        "model derives from the one before (`dmr_jrg_evidence` from `dmr_jrg`), and one that "
        "names another corpus drops what describes the one before: `DATASET`'s "
        f"{', '.join(OF_CORPUS)}. Each option can be set on the command line, `--set "
        "TRAIN.LR=3e-4`, and again for the next one.",
        "## Top level",
        _listed(top),
    ]
    for section, options in SCHEMA.items():
        if not isinstance(options, Option):
            blocks += [f"## {section}", _listed(options, f"{section}.")]
    blocks += ["## DATASET.SYNTHETIC", _listed(_world_knobs())]
    blocks += [
        "## Models",
        "`python -m lib.config.config NAME` prints the keywords of a model (`MODEL.PARAMS`), its "
        "loss terms (`LOSS.WEIGHTS`), and theirs and its plan's keywords (`LOSS.PARAMS`, "
        "`TRAIN.PARAMS`).",
        "\n".join(
            f"- `{name}`: {_first_paragraph(model)}" for name, model in (models or MODELS).items()
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def explain_model(name: str) -> str:
    """The keywords of a model, of its losses and of its plan, as a Markdown page.

    Raises:
        InputError: there is no such model.
    """
    model = find_model(name)
    losses = ", ".join(f"`{term}`" for term in model.losses())
    blocks = [f"# Model `{name}`", _first_paragraph(model)]
    for section, options in (
        ("MODEL.PARAMS", keywords(model)),
        ("LOSS.PARAMS", keywords(model.losses)),
        ("TRAIN.PARAMS", _plan_options(model)),
    ):
        if options:
            blocks += [f"`{section}`:", _listed(options)]
    return "\n\n".join([*blocks, f"`LOSS.WEIGHTS` over {losses}."]) + "\n"


def _first_paragraph(model: Any) -> str:
    """Of the docstring of the model's file, which says what it is."""
    text = inspect.getmodule(model).__doc__ or inspect.getdoc(model) or ""  # type: ignore
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def _rooted(config: dict[str, Any]) -> dict[str, Any]:
    """The same with absolute paths: installed, the relative ones of a file begin in the current
    folder, which a run's ``config.yaml`` must not depend on."""
    for *sections, name in PATHS:
        inner = config
        for section in sections:
            inner = inner[section]
        if isinstance(value := inner.get(name), str) and value not in NO_PATHS:
            inner[name] = str(home() / value)
    return config


# Reading: text -> {key: value and location}


Key = tuple[str, ...]


@dataclass(frozen=True, order=True)
class _Location:
    """Where something was written. Sorting by it gives the order in which faults are reported."""

    rank: int
    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    def at(self, node: yaml.Node) -> _Location:
        """The location of a node in the same source; a flag has no lines."""
        return dataclasses.replace(self, line=node.start_mark.line + 1) if self.line else self


@dataclass(frozen=True)
class _Setting:
    value: Any
    location: _Location


Layer = dict[Key, _Setting]


class _Report:
    """Faults so far."""

    def __init__(self) -> None:
        self.faults: list[tuple[_Location, str]] = []
        self.refused: set[Key] = set()  # keys whose value is known to be wrong: reported once
        self.unreadable = False  # a file of the chain could not be read at all

    def add(self, location: _Location, sentence: str, key: Key | None = None) -> None:
        self.faults.append((location, sentence))
        if key is not None:
            self.refused.add(key)

    def cannot_read(self, location: _Location, sentence: str) -> None:
        """A fault because of which a file is not read: options missing elsewhere may be in it."""
        self.unreadable = True
        self.add(location, sentence)

    def raise_if_any(self) -> None:
        if self.faults:
            ordered = sorted(self.faults, key=lambda fault: fault[0])
            lines = [_line(f"{location}: {text}") for location, text in ordered]
            if len(lines) > _MAX_FAULTS:  # the file is then hardly an experiment
                lines[_MAX_FAULTS:] = [f"… and {len(lines) - _MAX_FAULTS} more"]
            raise InputError("\n".join(lines))


def _read_chain(path: Path, report: _Report) -> list[Layer]:
    """The files from the given one up to the last parent, as layers, the last parent first."""
    layers: list[Layer] = []
    seen: list[Path] = []
    location = _Location(0, 0, str(path))  # of a parent: the BASE line that names it
    while True:
        rank = len(layers)
        start = _Location(rank, 1, str(path))
        try:
            root = compose(read_text(path))
            if root is None:
                raise Refused("is empty; expected a BASE, or DATASET and MODEL at least")
        except Unparsable as fault:
            report.cannot_read(dataclasses.replace(start, line=fault.line), str(fault))
            break
        except Refused as fault:
            report.cannot_read(location, f"BASE: {path} {fault}" if rank else str(fault))
            break
        if path.resolve() in seen:
            report.cannot_read(location, f"BASE leads back to {path}; a chain of parents must end")
            break
        seen.append(path.resolve())
        source = _Source(start, report, path.parent)
        source.read(root)
        layers.insert(0, source.layer)
        if source.base is None:
            break
        location = source.base.location
        # Not resolved further: a message then shows the path that was written.
        path = Path(os.path.normpath(path.parent / source.base.value))
    return layers


class _Source:
    """One file, or one flag, as it is read: its valid options, and its BASE."""

    def __init__(self, start: _Location, report: _Report, folder: Path) -> None:
        self.start = start
        self.report = report
        self.folder = folder  # that the paths in this source are relative to
        self.layer: Layer = {}
        self.base: _Setting | None = None
        self._budget = [MAX_VALUES]

    @property
    def typed(self) -> bool:
        """Whether it is a flag of the command line, and no file."""
        return self.start.line == 0

    def read(self, root: yaml.Node) -> None:
        for name, location, node in self._items(root, (), self.start):
            if name == "BASE":
                self._take_base(node, location)
            elif name not in SCHEMA:
                known = {**SCHEMA, "BASE": Option(str, "", "")}
                self.report.add(location, _unknown((name,), known))
            elif isinstance(option := SCHEMA[name], Option):
                self.take((name,), node, location, option)
            else:
                self._read_section(name, option, node, location)

    def take(self, key: Key, node: yaml.Node, location: _Location, option: Option) -> None:
        """Keep the value, or report it."""
        try:
            value = fit_option(value_of(node, self._budget), option)
            if key in (("MODEL", "NAME"), ("LOGGER",)):
                value = absolute(value, self.folder)
            if key in PATHS and self.typed and isinstance(value, str) and value not in NO_PATHS:
                value = os.path.abspath(os.path.expanduser(value))
            self.layer[key] = _Setting(value, location)
        except Refused as fault:
            self.report.add(location, f"{_dotted(key)} {fault}", key)

    def _take_base(self, node: yaml.Node, location: _Location) -> None:
        try:
            self.base = _Setting(fit(value_of(node, self._budget), str), location)
        except Refused as fault:
            self.report.cannot_read(location, f"BASE {fault}")

    def _read_section(self, section: str, options: Section, node: yaml.Node, at: _Location) -> None:
        for name, location, child in self._items(node, (section,), at):
            if name not in options:
                self.report.add(location, _unknown((section, name), options))
            elif options[name].hint is not dict:
                self.take((section, name), child, location, options[name])
            else:  # its keys are checked later, when model and corpus are known
                for entry, entry_location, leaf in self._items(child, (section, name), location):
                    entry = absolute(entry, self.folder)
                    self.take((section, name, entry), leaf, entry_location, Option(Any, None, ""))

    def _items(
        self, node: yaml.Node, key: Key, location: _Location
    ) -> Iterator[tuple[str, _Location, yaml.Node]]:
        """Name, location and value of each entry of a mapping; repeated names are reported."""
        if not isinstance(node, yaml.MappingNode) or not node.tag.endswith(":map"):
            expected = "expected lines of the form KEY: value"
            if not key:
                self.report.cannot_read(location, f"holds no options; {expected}")
                return
            text = node.value[:40] if isinstance(node, yaml.ScalarNode) else "no mapping"
            self.report.add(location, f"{_dotted(key)} is {text or 'empty'}; {expected}", key)
            return
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            entry_location = location.at(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.report.add(
                    entry_location, f"a key of {_dotted(key) or 'the file'} is not a word"
                )
                continue
            name = key_node.value
            if name in seen:
                first = f"it was set in line {seen[name]} already"
                self.report.add(entry_location, f"{_dotted((*key, name))} is set twice; {first}")
                continue
            seen[name] = key_node.start_mark.line + 1
            yield name, entry_location, child


def _read_command_line(
    overrides: Iterable[str], flags: Mapping[str, Any], report: _Report
) -> Layer:
    """The options of ``--set`` and the other flags, as one layer."""
    layer: Layer = {}
    for text in overrides:
        source = _Source(_Location(-1, 0, f"--set {text}"), report, Path())
        name, equals, value = text.partition("=")
        words = name.strip().split(".")
        if not equals or not all(words):
            report.add(source.start, "expected SECTION.KEY=VALUE, such as TRAIN.LR=3e-4")
        elif words[0] == "BASE":
            report.add(source.start, "BASE is read from the file only")
        else:
            try:
                node = compose(value) or node_of("", text=True)
            except Refused as fault:
                report.add(source.start, str(fault))
                continue
            for word in reversed(words):
                node = mapping_of(word, node)
            source.read(node)
            layer.update(source.layer)
    for flag, name in FLAGS.items():
        option = SCHEMA[name]
        assert isinstance(option, Option)
        if flags.get(flag) is not None:
            source = _Source(_Location(-1, 0, f"--{flag}"), report, Path())
            node = node_of(str(flags[flag]), text=option.hint is str)
            source.take((name,), node, source.start, option)
            layer.update(source.layer)
    return layer


def _merge(layers: Sequence[Layer], models: Mapping[str, Any]) -> Layer:
    """Later layers override earlier ones; options of a replaced model or corpus are dropped."""

    def unrelated(new: str, old: str, kind: str) -> bool:
        """Whether options of the old model or corpus do not apply to the new one."""
        if kind == "MODEL" and new in models and old in models:
            return not issubclass(models[new], models[old])
        return new != old

    merged: Layer = {}
    sections_of = {
        ("MODEL", "NAME"): [
            *(("MODEL", "PARAMS"), ("TRAIN", "PARAMS")),
            *(("LOSS", "WEIGHTS"), ("LOSS", "PARAMS")),
        ],
        ("DATASET", "NAME"): [("DATASET", key) for key in OF_CORPUS],
    }
    for layer in layers:
        for name, sections in sections_of.items():
            if (
                name in layer
                and name in merged
                and unrelated(layer[name].value, merged[name].value, name[0])
            ):
                merged = {
                    key: setting for key, setting in merged.items() if key[:2] not in sections
                }
        merged.update(layer)
    return merged


# Checking: {key: value and location} -> all options


class _Resolver:
    """Fills in defaults, checks the open sections, and checks options against each other."""

    def __init__(
        self, settings: Layer, models: Mapping[str, Any], report: _Report, file: _Location
    ) -> None:
        self.settings = settings
        self.models = models
        self.report = report
        self.file = file
        self.model: Any = None

    def resolve(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for section, options in SCHEMA.items():
            if isinstance(options, Option):
                config[section] = self._get((section,), options)
            else:
                config[section] = {
                    name: self._get((section, name), option)
                    for name, option in options.items()
                    if option.hint is not dict
                }
        self._check_corpus(config)
        self._fill_world(config)
        self._fill_model(config)
        self._compare(config)
        return config

    def _get(self, key: Key, option: Option) -> Any:
        if key in self.settings:
            return self.settings[key].value
        if option.default is MISSING and key not in self.report.refused:
            names: dict[Key, Any] = {
                ("MODEL", "NAME"): Literal[tuple(self.models)],
                ("DATASET", "NAME"): Literal[tuple(CORPORA)],
            }
            choices = names.get(key, option.hint)
            own = ", or a name for one's own" if key == ("DATASET", "NAME") else ""
            sentence = f"{_dotted(key)} is missing; expected {kind_of(choices)}{own}"
            self.report.add(self.file, sentence)
        return None if option.default is MISSING else _plain(option.default)

    def _open(self, section: Key, options: Section) -> dict[str, Any]:
        """The entries of an open section against the options it may hold, defaults filled in."""
        given = {key[2]: setting for key, setting in self.settings.items() if key[:2] == section}
        for name, setting in given.items():
            if name not in options:
                self.report.add(setting.location, _unknown((*section, name), options))
        filled = {}
        for name, option in options.items():
            key = (*section, name)
            if name not in given:
                filled[name] = self._get(key, option)
                continue
            try:
                filled[name] = fit_option(given[name].value, option)
            except Refused as fault:
                self.report.add(given[name].location, f"{_dotted(key)} {fault}", key)
        return filled

    def _check_corpus(self, config: dict[str, Any]) -> None:
        """Whether the corpus ships, or is described."""
        section = config["DATASET"]
        keys = [("DATASET", key) for key in ("NAME", "ANNOTATIONS", "SPLITS", "FEATURES")]
        if section["NAME"] is None or self.report.refused.intersection(keys):
            return
        known = {field.name for field in dataclasses.fields(CorpusOptions)}
        options = {k.lower(): value for k, value in section.items() if k.lower() in known}
        try:
            facts(section["NAME"], CorpusOptions(**options))
        except InputError as fault:
            option = re.split(r"\W", str(fault))[0]
            key = ("DATASET", option) if ("DATASET", option) in self.settings else keys[0]
            self._conflict(f"DATASET.{str(fault).rstrip('.')}", key)

    def _fill_world(self, config: dict[str, Any]) -> None:
        section, corpus = ("DATASET", "SYNTHETIC"), config["DATASET"]["NAME"]
        given = [key for key in self.settings if key[:2] == section]
        config["DATASET"]["SYNTHETIC"] = {}
        if corpus == "synthetic":
            config["DATASET"]["SYNTHETIC"] = knobs = self._open(section, _world_knobs())
            if not any(key[:2] == section for key in self.report.refused):
                self._try_world(knobs, given)
        elif given:
            self._conflict(
                f"DATASET.SYNTHETIC is for DATASET.NAME synthetic; found NAME {corpus}",
                *given,
                ("DATASET", "NAME"),
            )

    def _try_world(self, knobs: dict[str, Any], given: list[Key]) -> None:
        try:
            WorldOptions(**knobs)
        except InputError as fault:  # options that contradict each other
            self._conflict(f"DATASET.SYNTHETIC: {str(fault).rstrip('.')}", *given)

    def _fill_model(self, config: dict[str, Any]) -> None:
        name = config["MODEL"]["NAME"]
        if name is None:
            return
        try:
            self.model = model = find_model(name, self.models)
        except InputError as fault:
            self.report.add(self._location(("MODEL", "NAME")), str(fault), ("MODEL", "NAME"))
            return
        terms = dict.fromkeys(model.losses(), WEIGHT)
        for key, setting in self.settings.items():
            if key[:2] == ("LOSS", "WEIGHTS") and is_external(key[2]):
                terms[key[2]] = WEIGHT
                try:
                    find_term(key[2])
                except InputError as fault:
                    self.report.add(setting.location, f"LOSS.WEIGHTS: {fault}", key)
        config["MODEL"]["PARAMS"] = self._open(("MODEL", "PARAMS"), keywords(model))
        config["LOSS"]["WEIGHTS"] = weights = self._open(("LOSS", "WEIGHTS"), terms)
        config["LOSS"]["PARAMS"] = self._open(("LOSS", "PARAMS"), keywords(model.losses))
        config["TRAIN"]["PARAMS"] = self._open(("TRAIN", "PARAMS"), _plan_options(model))
        if len(weights) == len(terms) and not any(weights.values()):
            self.report.add(
                self._location(*[("LOSS", "WEIGHTS", term) for term in terms]),
                f"LOSS.WEIGHTS gives no term a weight above 0; {name} has {', '.join(terms)}",
            )

    def _compare(self, config: dict[str, Any]) -> None:
        """Check options against each other."""
        data, train, test = config["DATASET"], config["TRAIN"], config["TEST"]
        params = config["MODEL"].get("PARAMS", {})
        model = self.model
        if data["NUM_FRAMES"] % data["NUM_CLIPS"]:
            self._conflict(
                f"DATASET.NUM_CLIPS {data['NUM_CLIPS']} does not divide "
                f"DATASET.NUM_FRAMES {data['NUM_FRAMES']}",
                ("DATASET", "NUM_CLIPS"),
                ("DATASET", "NUM_FRAMES"),
            )
        kept, weights = params.get("num_candidates"), params.get("candidate_weights")
        if kept is not None and weights is not None and kept != len(weights):
            self._conflict(
                f"MODEL.PARAMS.candidate_weights has {len(weights)} weights for "
                f"num_candidates {kept}; expected one each",
                ("MODEL", "PARAMS", "candidate_weights"),
                ("MODEL", "PARAMS", "num_candidates"),
            )
        if model is not None and model.supervision == "full" and train["SUPERVISION"] != "full":
            self._conflict(
                f"{config['MODEL']['NAME']} learns from timestamps; "
                "expected TRAIN.SUPERVISION full",
                ("TRAIN", "SUPERVISION"),
                ("MODEL", "NAME"),
            )
        if max(test["GROUNDING_N"], default=0) > test["MOMENTS"]:
            self._conflict(
                f"TEST.GROUNDING_N asks for {max(test['GROUNDING_N'])} moments, "
                f"TEST.MOMENTS keeps {test['MOMENTS']}",
                ("TEST", "GROUNDING_N"),
                ("TEST", "MOMENTS"),
            )

    def _conflict(self, sentence: str, *keys: Key) -> None:
        if not self.report.refused.intersection(keys):  # else a default stands for a wrong value
            self.report.add(self._location(*keys), sentence)

    def _location(self, *keys: Key) -> _Location:
        """Where any of these options was set last."""
        return min(
            (self.settings[k].location for k in keys if k in self.settings), default=self.file
        )


def _plan_options(model: Any) -> Section:
    """The keywords of a model's plan; few models have any."""
    return keywords(model.plan)


def _world_knobs() -> Section:
    return dataclass_options(WorldOptions)


def _unknown(key: Key, options: Mapping[str, Option | Section]) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""
    *section, name = key
    if (".".join(section), name) in RENAMED:
        return f"{_dotted(key)} is no longer an option; {RENAMED['.'.join(section), name]}"
    prefix = "".join(f"{part}." for part in section)
    near = difflib.get_close_matches(name.lower(), [o.lower() for o in options], n=1, cutoff=0.7)
    sentence = f"{prefix}{name[:60]} is not an option"
    if near:
        nearest = next(o for o in options if o.lower() == near[0])
        return f"{sentence}; did you mean {prefix}{nearest}{_brief(options[nearest])}?"
    elsewhere = [
        f"{other}.{name}"
        for other, inner in SCHEMA.items()
        if not isinstance(inner, Option) and name in inner
    ] + [name] * isinstance(SCHEMA.get(name), Option)
    if elsewhere:
        return f"{sentence}; there is {' and '.join(elsewhere)}"
    section_name = ".".join(section) or "the top level"
    return f"{sentence}; {section_name} has {', '.join(options) or 'none'}"


def _brief(option: Option | Section) -> str:
    if not isinstance(option, Option) or option.hint in (dict, Any):
        return ""
    default = "required" if option.default is MISSING else f"default {_yaml(option.default)}"
    return f" ({kind_of(option.hint)}, {default})"


# Helpers


def _dotted(key: Key) -> str:
    return ".".join(key)


def _plain(value: Any) -> Any:
    """EasyDicts as dicts and tuples as lists, copied, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _line(text: str) -> str:
    """One printable line, whatever was in the file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _yaml(value: Any) -> str:
    return dump(_plain(value)).strip().removesuffix("\n...").replace("''", '""')


def _listed(options: Section, prefix: str = "") -> str:
    """One line an option: its key and default, its type where that is no plain value's, and what it
    means."""
    lines = []
    for name, option in options.items():
        default = "required" if option.default is MISSING else _yaml(option.default)
        plain = option.hint in (str, bool, int, float) and option.limit is None
        kind = kind_of(option.hint) + (f" {option.limit.text}" if option.limit else "")
        kind = "" if plain else f" ({kind.removeprefix('one of ')})"
        lines.append(f"- `{prefix}{name}: {default}`{kind} {option.help}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(explain_model(sys.argv[1]) if sys.argv[1:] else explain(), end="")
    except InputError as fault:
        sys.exit(f"error: {fault}")
