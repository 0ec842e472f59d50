"""A tiny synthetic corpus on disk, read once for the whole session; and models from outside.

    python -m pytest --model /path/my_model.py:MyModel

runs the property suite over that model alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.shapes import check_all_shapes

check_all_shapes()  # before the first import of the library

from lib.base.batch import Batch  # noqa: E402
from lib.datasets import LoadedCorpus, build_loader, load_corpus  # noqa: E402

torch.set_num_threads(1)  # with busy cores more threads are slower
os.environ.pop("COLUMNS", None)  # which pytest-xdist sets: tables are tested as wide as in a file

TINY = {"train": 16, "val": 6, "test": 8, "feature_dim": 12, "word_dim": 8, "rows_per_second": 0.5}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model",
        metavar="REFERENCE",
        help="run the property suite over package.module:Class or folder/file.py:Class",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--model") and config.args_source != config.ArgsSource.ARGS:
        config.args = [str(Path(__file__).with_name("test_properties.py"))]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder; the synthetic worlds of the session are made below it."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def tiny(data_dir: Path) -> LoadedCorpus:
    """All three splits, training moments visible."""
    return load_corpus(
        name="synthetic",
        data_dir=data_dir,
        splits=("train", "val", "test"),
        num_frames=32,
        num_clips=8,
        hide_train_moments=False,
        synthetic=TINY,
    )


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file that a command reads (``tests.stress.home``), to be read."""
    from tests.stress import home

    return home.make(tmp_path_factory.mktemp("home"))


@pytest.fixture
def own_home(made_home: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    from tests.stress import home

    return home.copy_of(made_home, tmp_path / "home")


@pytest.fixture
def batch(tiny: LoadedCorpus) -> Batch:
    """Four training paragraphs of unequal lengths."""
    return next(iter(build_loader(tiny["train"], batch_size=4)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real annotations and word vectors, where this checkout has them beside it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real annotations at {folder}")
    return folder
