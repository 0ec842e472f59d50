"""The floors of the house: every import, wherever it stands, goes down, and none goes round."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPOSITORY / "lib").rglob("*.py"))
SCRIPTS = sorted((REPOSITORY / "moment_localization").glob("*.py"))
# A floor knows itself and those before it. Two folders on one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("lib.base",),
    ("lib.losses", "lib.datasets", "lib.decoding", "lib.evaluation", "lib.videos", "lib.index"),
    ("lib.models",),
    ("lib.config",),
    ("lib.training",),
    ("lib.inference",),
    ("lib.serving", "lib.tools"),
    ("lib.commands",),
    ("lib.__main__", "moment_localization"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [module_name(path) for path in SOURCES]


def room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "moment_localization" else ".".join(parts[:2])


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it, for type checking only or not."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(REPOSITORY).parts[: -node.level] if node.level else ()
            module = ".".join((*package, *filter(None, [node.module])))
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole in MODULES else module


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in ("lib", "moment_localization")}


def test_every_room_is_on_a_floor() -> None:
    assert {room(name) for name in MODULES if "." in name} == set(LEVEL) - {"moment_localization"}


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=module_name)
def test_no_import_goes_up(path: Path) -> None:
    here = room(module_name(path))
    for name in own_imports(path):
        there = room(name)
        assert there == here or LEVEL[there] < LEVEL[here], f"{path} imports {name}"


def test_the_package_does_not_say_its_own_name() -> None:
    """Installed, it has another one than in the checkout."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module and node.module.split(".")[0] != "lib", f"{path}:{node.lineno}"
            elif isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
                assert "lib" not in names, f"{path}:{node.lineno}"


def test_no_import_goes_round() -> None:
    graph = {module_name(path): own_imports(path) for path in (*SOURCES, *SCRIPTS)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        pytest.fail(f"a circle: {' -> '.join(fault.args[1])}")


def in_a_new_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_every_module_can_be_imported_and_says_nothing() -> None:
    """In one process: where no import goes round, it does not matter which comes first."""
    code = """
        import importlib, sys
        for name in sys.argv[1:]:
            importlib.import_module(name)
    """
    ended = in_a_new_process(code, *MODULES)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_evaluation_imports_without_torch() -> None:
    evaluation = [name for name in MODULES if name.startswith("lib.evaluation")]
    code = """
        import importlib, sys
        sys.modules["torch"] = None
        for name in sys.argv[1:]:
            importlib.import_module(name)
    """
    ended = in_a_new_process(code, *evaluation)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("room_name", ["losses", "datasets", "decoding", "evaluation", "models"])
def test_a_room_knows_no_device(room_name: str) -> None:
    for path in (REPOSITORY / "lib" / room_name).rglob("*.py"):
        known = {"lib.base.runtime", "lib.base.distributed"} & own_imports(path)
        assert not known, f"{path} imports {sorted(known)}"


def test_only_the_runtime_says_cuda() -> None:
    saying = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (*SOURCES, *SCRIPTS)
        if "cuda" in path.read_text("utf-8").lower()
    }
    assert saying == {"lib/base/runtime.py"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_does_nothing_when_imported(path: Path) -> None:
    """So that tests, and other programs, can call its ``main``."""
    last = ast.parse(path.read_text("utf-8")).body[-1]
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
