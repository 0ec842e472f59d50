"""The documents' commands and links name what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lib.base.installed import subcommand
from lib.commands.console import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "moment_localization"
PAGES = [REPOSITORY / name / "README.md" for name in (".", "data", "save")]
PAGES += [REPOSITORY / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))


def names(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def commands(page: Path) -> list[list[str]]:
    """The steps of every command line in a page's code blocks, comments left out."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if kind in ("", "bash") for line in block.splitlines()]
    return [
        [" ".join(shlex.split(step, comments=True)) for step in line.split(" && ")]
        for line in lines
        if line.startswith(("python", "cd ", "torchrun"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_name_scripts_and_experiments_that_are_there(page):
    for step in (step for line in commands(page) for step in line):
        for word in step.split():
            if word.endswith(".py"):
                assert (SCRIPTS / word).is_file() or (REPOSITORY / word).is_file(), step
            if word.startswith("../experiments/"):
                assert (SCRIPTS / word).is_file(), step


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_subcommands_are_there(page):
    known = {subcommand(name) for name in COMMANDS} | {"COMMAND"}
    for name in re.findall(r"\bdmr-jrg (\w[\w-]*)", page.read_text("utf-8")):
        assert name in known, name


def test_the_readme_s_commands_install_first():
    first, tests, *real = commands(REPOSITORY / "README.md")
    install = [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install -r requirements.txt",
    ]
    assert first[:3] == tests[:3] == install
    assert first[3] == "cd moment_localization" == real[0][0]


def test_the_check_before_a_change_runs_the_readme_s_tests():
    _, tests, *_ = commands(REPOSITORY / "README.md")
    check = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    assert tests[0] in check and tests[1] in check
    assert f"{tests[-1]} || status=1" in check
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111
