"""Make a folder to work in: this release's experiments, and a place for data.

    dmr-jrg init my_project

The experiments (YAML files) in my_project/experiments are yours to change, and to name as the BASE
of others. Started in my_project, commands read data/ and write save/ there. Nothing that exists is
overwritten.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ..base.errors import InputError
from ..base.files import unwritable
from ..base.installed import FOLDER, REPOSITORY, typed

NAME = "experiments"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made if it is not there")
    folder = parser.parse_args().folder
    copy_experiments(folder / NAME)
    print(
        f"{folder / NAME} has the experiments. In {folder}, try: "
        + typed("dense_train", "--verbose", "--cfg", f"{NAME}/synthetic/dmr_jrg.yaml")
    )


def copy_experiments(target: Path) -> None:
    """Copy the experiments of this release, all of them or none.

    Raises:
        InputError: something is there already, or it cannot be written.
    """
    installed = FOLDER / NAME
    source = installed if installed.is_dir() else REPOSITORY / NAME
    part = target.with_name(f".{NAME}.part")
    try:
        if target.is_symlink() or target.exists():
            raise InputError(f"{target} exists, and is left as it is; choose another FOLDER")
        (target.parent / "data").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("__pycache__"))
        part.rename(target)
    except OSError as fault:
        raise unwritable(target, fault) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
