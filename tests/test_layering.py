"""Who may know whom: every module stands alone, and arrows point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPOSITORY / "lib").rglob("*.py"))
SCRIPTS = sorted((REPOSITORY / "moment_localization").glob("*.py"))
# What the rooms below the scripts may know of lib.core: no configuration, device or run folder.
SHARED_CORE = {"lib.core.errors", "lib.core.moments"}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [module_name(path) for path in SOURCES]


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it, for type checking only or not."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def in_a_new_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_every_module_can_be_imported_first_and_says_nothing():
    # Each in a fork of a process that has only other people's packages: new processes, without
    # paying for Torch each time.
    code = """
        import importlib, os, sys
        import easydict, h5py, jaxtyping, numpy, terminaltables, torch, torch.utils.data, tqdm, yaml
        assert not any(name.split(".")[0] == "lib" for name in sys.modules)
        children = {}
        for name in sys.argv[1:]:
            child = os.fork()
            if not child:
                try:
                    importlib.import_module(name)
                except BaseException as fault:
                    print(f"{name}: {fault!r}", flush=True)
                    os._exit(1)
                sys.stdout.flush()
                os._exit(0)
            children[child] = name
        failed = [name for child, name in children.items() if os.waitpid(child, 0)[1]]
        sys.exit(", ".join(failed) or 0)
    """
    found = in_a_new_process(code, *MODULES)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_evaluation_imports_without_torch():
    evaluation = [name for name in MODULES if name.startswith("lib.evaluation")]
    code = """
        import importlib, sys
        sys.modules["torch"] = None
        for name in sys.argv[1:]:
            importlib.import_module(name)
    """
    found = in_a_new_process(code, *evaluation)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("room", ["datasets", "evaluation", "losses", "models"])
def test_a_room_knows_no_configuration_and_no_device(room):
    for path in (REPOSITORY / "lib" / room).rglob("*.py"):
        known = {name for name in imports(path) if name.startswith("lib.core")}
        assert known <= SHARED_CORE, f"{path} imports {sorted(known - SHARED_CORE)}"


def test_nothing_imports_the_scripts():
    for path in SOURCES:
        assert not [name for name in imports(path) if name.startswith("moment_localization")]


def test_only_the_runtime_says_cuda():
    saying = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (*SOURCES, *SCRIPTS)
        if "cuda" in path.read_text("utf-8").lower()
    }
    assert saying == {"lib/core/runtime.py"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_does_nothing_when_imported(path):
    """So that tests, and other programs, can call its ``main``."""
    last = ast.parse(path.read_text("utf-8")).body[-1]
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
