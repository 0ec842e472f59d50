"""The package as it is installed: in a folder where another ``lib`` lies, under its own name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from lib.base import external, installed
from lib.commands.console import COMMANDS, as_typed_here, overview
from lib.models.interface import Model, missing_parts
from tests.runs import REPOSITORY
from tests.test_outside import MODEL

SOURCES = ("lib", "experiments", "pyproject.toml", "setup.py", "README.md", "LICENSE")
TINY = {"train": 8, "val": 4, "test": 4, "feature_dim": 8, "word_dim": 6}
EXPERIMENT = {
    "BASE": "experiments/synthetic/base.yaml",
    "GPUS": "cpu",
    "WORKERS": 0,
    "DATASET": {"NUM_FRAMES": 16, "NUM_CLIPS": 8, "SYNTHETIC": TINY},
    "MODEL": {"NAME": "my_model.py:MyModel", "PARAMS": {"hidden_size": 8}},
    "LOSS": {"WEIGHTS": {"match": 1}, "PARAMS": {"sharpness": 5.0}},
    "TRAIN": {"EPOCHS": 1, "BATCH_SIZE": 4},
    "TEST": {"RESAMPLES": 0},
}


def parts(folder: Path) -> set[str]:
    """The names of the files below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix() for p in found if "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, without what it depends on."""
    pytest.importorskip("setuptools", "77", reason="building the package needs setuptools")
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    for name in SOURCES:
        path = REPOSITORY / name
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, source / name)
    flags = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *flags, "--target", target, source]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return target


class Elsewhere:
    """A folder of somebody who has a ``lib`` of their own, and the installed package."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target = folder, target
        (folder / "lib").mkdir()
        (folder / "lib" / "__init__.py").write_text("raise RuntimeError('another lib')\n")
        self._environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True
        )

    def console(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.target / "bin" / "dmr-jrg"), *arguments)

    def experiment(self, **changes: object) -> None:
        text = yaml.safe_dump({**EXPERIMENT, **changes})
        (self.folder / "mine.yaml").write_text(text, "utf-8")


@pytest.fixture
def elsewhere(tmp_path: Path, target: Path) -> Elsewhere:
    return Elsewhere(tmp_path, target)


def test_every_file_is_installed(target: Path) -> None:
    lib = parts(REPOSITORY / "lib")
    experiments = {f"experiments/{name}" for name in parts(REPOSITORY / "experiments")}
    assert parts(target / "dmr_jrg") == lib | experiments
    (about,) = target.glob("dmr_jrg-*.dist-info")
    assert (about / "licenses" / "LICENSE").is_file()


def test_what_the_package_needs_is_what_was_tested(target: Path) -> None:
    """The same names as in requirements.txt, and ranges that admit those releases."""
    requirements = pytest.importorskip("packaging.requirements")
    (about,) = target.glob("dmr_jrg-*.dist-info/METADATA")
    lines = re.findall(r"^Requires-Dist: (.*)$", about.read_text("utf-8"), re.MULTILINE)
    ranges = {r.name.lower(): r for r in map(requirements.Requirement, lines)}
    pinned: dict[str, str] = {}
    for file in ("requirements.txt", "requirements-extras.txt"):
        text = (REPOSITORY / file).read_text("utf-8")
        for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE):
            pinned.setdefault(name.lower(), version)
    core = {name for name, one in ranges.items() if one.marker is None}
    assert core <= set(pinned) and str(ranges["torchtext"].specifier) == "==0.6.0"
    for name in ranges.keys() & pinned.keys():
        assert ranges[name].specifier.contains(pinned[name]), name


def test_the_release_is_the_same_everywhere(target: Path) -> None:
    release = installed_version(target)
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == release and cited["license"] == "Apache-2.0"
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest and newest[1] == release


def test_help_lists_every_command_and_imports_no_torch(elsewhere: Elsewhere) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['--help']; "
    shown = elsewhere.run(
        sys.executable, "-c", f"{code}from dmr_jrg.commands.console import main; main()"
    )
    assert shown.returncode == 0, shown.stderr
    assert "  train  " in shown.stdout and "Train an experiment, validate it" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) < 80


def test_the_console_has_every_command() -> None:
    modules = {path.stem for path in (REPOSITORY / "lib" / "commands").glob("*.py")}
    assert {*COMMANDS} == modules - {"__init__", "console"}
    assert all(re.search(rf"^  {name}  +\w", overview(), re.MULTILINE) for name in ("init", "test"))
    scripts = {path.stem for path in (REPOSITORY / "moment_localization").glob("*.py")}
    assert {*COMMANDS} - {"init"} <= scripts


@pytest.mark.parametrize("start", ["console", "module"])
def test_a_command_s_help_speaks_of_the_console(elsewhere: Elsewhere, start: str) -> None:
    command = [str(elsewhere.target / "bin" / "dmr-jrg")]
    if start == "module":
        command = [sys.executable, "-m", "dmr_jrg"]
    shown = elsewhere.run(*command, "compare", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: dmr-jrg compare [-h]")
    assert "dmr-jrg compare save/dense_activitynet/base" in shown.stdout
    assert ".py" not in shown.stdout and "../" not in shown.stdout


def test_an_unknown_command_is_refused_with_the_nearest(elsewhere: Elsewhere) -> None:
    for wrong, hint in (
        ("tets", "did you mean test?"),
        ("dense_train", "did you mean train?"),
        ("quux", "see dmr-jrg --help"),
    ):
        ended = elsewhere.console(wrong)
        assert ended.returncode == 2
        assert ended.stderr == f"error: dmr-jrg has no command {wrong!r}; {hint}\n"


SEVERAL = """
    import json, sys
    from dmr_jrg.commands.console import main
    for words in json.loads(sys.argv[1]):
        sys.argv = ["dmr-jrg", *words]
        main()
    assert "lib" not in sys.modules
    import dmr_jrg.inference
    print("loaded", dmr_jrg.inference.load("save/mine").about["model"])
"""


def test_somebody_s_own_folder_trains_a_model_of_its_own(elsewhere: Elsewhere) -> None:
    """From the shipped experiments to a report, all of it in the current folder."""
    (elsewhere.folder / "my_model.py").write_text(MODEL.replace("lib.", "dmr_jrg."), "utf-8")
    elsewhere.experiment()
    steps = (["init", "."], ["train", "--cfg", "mine.yaml"], ["test", "--cfg", "mine.yaml"])
    steps += (["report", "save/mine"],)
    done = elsewhere.run(sys.executable, "-c", textwrap.dedent(SEVERAL), json.dumps(steps))
    assert done.returncode == 0, done.stderr
    folder = elsewhere.folder
    assert "test it: dmr-jrg test save/mine" in done.stdout
    assert "loaded " in done.stdout and "my_model.py:MyModel" in done.stdout
    assert (folder / "data" / "synthetic").is_dir()
    assert (folder / "save" / "mine" / "results.html").is_file()
    results = json.loads((folder / "save" / "mine" / "results.json").read_text("utf-8"))
    about = results["provenance"]["test"]
    assert about["command"] == "dmr-jrg test --cfg mine.yaml" and about["commit"] is None
    assert about["versions"]["dmr-jrg"] == installed_version(elsewhere.target)
    again = elsewhere.console("init", ".")
    assert again.returncode == 2
    refused = "error: experiments exists, and is left as it is; choose another FOLDER\n"
    assert again.stderr == refused


def installed_version(target: Path) -> str:
    (about,) = target.glob("dmr_jrg-*.dist-info")
    return about.name.removeprefix("dmr_jrg-").removesuffix(".dist-info")


def test_a_model_written_for_the_repository_is_told_the_name(elsewhere: Elsewhere) -> None:
    shutil.rmtree(elsewhere.folder / "lib")
    (elsewhere.folder / "my_model.py").write_text(MODEL, "utf-8")
    elsewhere.experiment(BASE=str(REPOSITORY / "experiments" / "synthetic" / "base.yaml"))
    ended = elsewhere.console("train", "--cfg", "mine.yaml")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "my_model.py:MyModel cannot be imported (ModuleNotFoundError: No module named" in line
    assert "what runs here is called dmr_jrg: from dmr_jrg.models.interface import Model" in line


def test_a_model_of_the_other_package_is_told_which_one_runs() -> None:
    other = type("Model", (), {"__module__": "dmr_jrg.models.interface"})
    (fault,) = missing_parts(type("Mine", (other,), {}))
    assert fault == (
        "it derives from dmr_jrg.models.interface.Model, and what runs here is "
        "lib.models.interface.Model: import that one"
    )
    assert missing_parts(3) == [f"it does not derive from {Model.__module__}.Model"]


def test_a_file_that_imports_the_installed_package_is_told_the_name_here() -> None:
    fault = ModuleNotFoundError("No module named 'dmr_jrg'", name="dmr_jrg.models")
    assert "what runs here is called lib" in external._other_name(fault)
    assert external._other_name(ModuleNotFoundError("x", name="somebody_s")) == ""
    assert external._other_name(ValueError("dmr_jrg")) == ""


def test_docstrings_are_put_in_the_console_s_words(monkeypatch) -> None:
    text = (
        "python best_test.py --cfg ../experiments/a.yaml\n"
        "torchrun --nproc_per_node 8 dense_train.py --cfg x\n"
        "index.py and my_index.py; import_checkpoint.py"
    )
    assert as_typed_here(text) == (
        "dmr-jrg test --cfg experiments/a.yaml\n"
        "torchrun --nproc_per_node 8 -m lib train --cfg x\n"
        "dmr-jrg index and my_index.py; dmr-jrg import-checkpoint"
    )


def test_a_line_to_type_names_the_script_from_where_one_stands(monkeypatch) -> None:
    for started, script in (
        ("moment_localization/dense_train.py", "moment_localization/best_test.py"),
        ("dense_train.py", "best_test.py"),
        ("/somewhere/bin/pytest", "best_test.py"),
    ):
        monkeypatch.setattr(sys, "argv", [started])
        assert installed.typed("best_test", "--cfg", "a b") == f"python {script} --cfg 'a b'"
    monkeypatch.setattr(sys, "argv", ["dmr-jrg train", "--cfg", "a b"])
    assert installed.as_started() == "dmr-jrg train --cfg 'a b'"


def test_relative_paths_begin_in_the_current_folder_once_installed(monkeypatch, tmp_path) -> None:
    assert installed.home() == REPOSITORY
    monkeypatch.chdir(tmp_path)
    assert installed.home() == REPOSITORY
    monkeypatch.setattr(installed, "INSTALLED", True)
    assert installed.home() == tmp_path.resolve()
