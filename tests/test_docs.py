"""What the documents promise is there."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "data" / "README.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))


def commands(page: Path) -> list[list[str]]:
    """The steps of every command line in a page's code blocks, comments left out."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [
        [" ".join(shlex.split(step, comments=True)) for step in line.split(" && ")]
        for line in lines
        if line.startswith(("python", "cd "))
    ]


def test_the_picture_is_what_its_script_draws():
    script = runpy.run_path(str(REPOSITORY / "docs" / "draw_method.py"))
    drawn = (REPOSITORY / "docs" / "method.svg").read_text("utf-8")
    assert drawn == script["draw"](), "run: python docs/draw_method.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_s_commands_install_first_and_name_what_is_there():
    first, tests, *real = commands(REPOSITORY / "README.md")
    install = [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install -r requirements.txt",
    ]
    assert first[:3] == tests[:3] == install
    assert first[3] == "cd moment_localization" == real[0][0]
    scripts = REPOSITORY / "moment_localization"
    for (step,) in [[step] for step in first[4:]] + real[1:]:
        script, *flags = step.split()[1:]
        assert (scripts / script).is_file()
        assert (scripts / flags[flags.index("--cfg") + 1]).is_file()


def test_the_check_before_a_change_runs_the_readme_s_tests():
    _, tests, *_ = commands(REPOSITORY / "README.md")
    check = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    assert tests[0] in check and tests[1] in check
    assert f"{tests[-1]} || status=1" in check
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111
