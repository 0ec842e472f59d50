"""YAML texts as trees of nodes with line numbers; only numbers, texts, lists and mappings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..base.files import open_input
from .options import Refused, shown

MAX_BYTES = 64 * 1024  # an experiment is a few kilobytes; more is some other file
MAX_VALUES = 10_000  # aliases counted as often as they are used: a small file can mean gigabytes
MAX_DEPTH = 20


class Unparsable(Refused):
    """A fault with a line of its own."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; refuses what is no text or far too long."""
    try:
        with open_input(path, mode="rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Refused("does not exist") from None
    except (OSError, ValueError) as fault:  # ValueError: a NUL in the path
        raise Refused(f"cannot be read ({getattr(fault, 'strerror', fault)})") from None
    if len(data) > MAX_BYTES:
        raise Refused(f"is larger than {MAX_BYTES // 1024} KiB; an experiment is a short YAML file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        byte = data[fault.start]
        raise Unparsable(line, f"is not UTF-8 text (byte 0x{byte:02x})") from None


def compose(text: str) -> yaml.Node | None:
    """The node tree of a YAML text: values with their lines, nothing constructed.

    None if the text is empty. Refuses what is not YAML.
    """
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        reason = " ".join(filter(None, [fault.context, fault.problem]))
        raise Unparsable(mark.line + 1 if mark else 1, f"not valid YAML: {reason}") from None
    except yaml.reader.ReaderError as fault:
        line = text[: fault.position].count("\n") + 1
        raise Unparsable(line, "not valid YAML: a character that cannot be printed") from None
    except (ValueError, OverflowError):  # an escape or a version number that is no number
        raise Refused("is not valid YAML: a number in an escape is too large") from None
    except RecursionError:
        raise Refused("is nested too deeply for an experiment") from None


def value_of(node: yaml.Node, budget: list[int], depth: int = 0) -> Any:
    """The value of a node, in plain Python. ``budget[0]``, how many values may still be built, is
    counted down."""
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise Refused(
            f"holds more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, "
            "aliases counted as often as they are used"
        )
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [value_of(child, budget, depth + 1) for child in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        pairs = [
            (value_of(k, budget, depth + 1), value_of(v, budget, depth + 1)) for k, v in node.value
        ]
        if any(not isinstance(k, str) for k, _ in pairs):
            raise Refused("holds a key that is not a word")
        if len(dict(pairs)) < len(pairs):
            raise Refused("holds a key twice")
        return dict(pairs)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if not isinstance(node, yaml.ScalarNode) or kind not in _SCALARS:
        raise Refused(f"carries the tag {node.tag}; expected plain numbers, words and lists")
    try:
        return _SCALARS[kind](node.value)
    except (ValueError, KeyError):  # an explicit tag on something else, or an endless integer
        raise Refused(f"is {shown(node.value)}, which is no {kind}") from None


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


class _Loader(yaml.SafeLoader):
    """Knows numbers by the YAML 1.2 rules, and only makes nodes.

    By PyYAML's own rules, those of 1.1, 1e-4 is text, 010 is eight, 1:30 is ninety and ``no`` is
    false. Reader and writer share these, or the writer would leave unquoted what needs quotes.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Stop early: the scanner looks through all open brackets at each new one."""
        self._depth += 1
        if self._depth > 2 * MAX_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


class _Dumper(yaml.SafeDumper):
    """Mappings one key a line, lists on one line."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def represent_sequence(self, tag: str, sequence: Any, flow_style: Any = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=True)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(value: Any) -> str:
    """YAML that reads back to the same value; a mapping's keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def node_of(word: str, *, text: bool) -> yaml.ScalarNode:
    """The node of a single word from elsewhere: as ``text``, or what YAML would take it for."""
    tag = _TEXT if text else _Loader("").resolve(yaml.ScalarNode, word, (True, False))
    return yaml.ScalarNode(tag, word, _NOWHERE, _NOWHERE)


def mapping_of(word: str, node: yaml.Node) -> yaml.MappingNode:
    """``{word: node}``."""
    pairs = [(node_of(word, text=True), node)]
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs, _NOWHERE, _NOWHERE)


_TEXT = "tag:yaml.org,2002:str"
_NOWHERE = yaml.Mark("", 0, 0, 0, "", 0)
