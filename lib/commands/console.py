"""The one command of the installed package, ``dmr-jrg``, with the commands as its subcommands."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import sys
import textwrap
from pathlib import Path

from ..base.command import run_script
from ..base.errors import InputError
from ..base.installed import CONSOLE, PACKAGE, release, subcommand

# In the order in which one meets them.
COMMANDS = (
    *("init", "doctor", "plan", "dense_train", "best_test", "report", "compare", "figures"),
    *(
        "score",
        "sweep",
        "reproduce",
        "extract_features",
        "index",
        "search",
        "serve",
        "export",
        "replay",
    ),
    *("import_checkpoint", "import_features", "make_synthetic"),
)
_BY_NAME = {subcommand(name): name for name in COMMANDS}


def main() -> None:
    """``dmr-jrg COMMAND ARGUMENT …``; ends the process as ``run_script`` does."""
    run_script(_run)


def _run() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        print(f"{CONSOLE} {release() or '(not installed)'}")
    elif name in _BY_NAME:
        command = importlib.import_module(f"{__package__}.{_BY_NAME[name]}")
        command.__doc__ = as_typed_here(command.__doc__ or "")  # which its --help shows
        sys.argv = [f"{CONSOLE} {name}", *arguments]
        command.main()
    else:
        near = difflib.get_close_matches(name, [*_BY_NAME, *COMMANDS], n=2)
        # Those who know the scripts may try their names.
        known = dict.fromkeys(map(subcommand, near))
        hint = f"did you mean {' or '.join(known)}?" if known else f"see {CONSOLE} --help"
        raise InputError(f"{CONSOLE} has no command {name[:40]!r}; {hint}")


def overview() -> str:
    """What ``--help`` prints: every command and what it does. Nothing is imported for it."""
    width = max(map(len, _BY_NAME))
    return "\n".join(
        [
            f"usage: {CONSOLE} COMMAND …",
            "",
            "Video paragraph retrieval and grounding.",
            "",
            *(
                textwrap.fill(
                    as_typed_here(_first_line(name)),
                    79,
                    initial_indent=f"  {short:{width}}  ",
                    subsequent_indent=" " * (width + 4),
                )
                for short, name in _BY_NAME.items()
            ),
            "",
            f"{CONSOLE} COMMAND --help explains one. {CONSOLE} --version prints the release.",
        ]
    )


def _first_line(name: str) -> str:
    """Of a command's docstring."""
    source = Path(__file__).with_name(f"{name}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def as_typed_here(text: str) -> str:
    """A docstring, which speaks of the scripts, in the words of ``dmr-jrg``: ``python best_test.py
    --cfg ../experiments/…`` becomes ``dmr-jrg test --cfg experiments/…``."""
    names = "|".join(COMMANDS)
    text = re.sub(rf"(torchrun .*)\b({names})\.py", _module, text)
    text = re.sub(rf"(?:python )?\b({names})\.py", lambda f: f"{CONSOLE} {subcommand(f[1])}", text)
    text = re.sub(r"\blib\.(?=[a-z])", f"{PACKAGE}.", text)
    return re.sub(r"\.\./(?=(experiments|data|save|videos)\b)", "", text)


def _module(found: re.Match[str]) -> str:
    return f"{found[1]}-m {PACKAGE} {subcommand(found[2])}"
