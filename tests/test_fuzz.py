"""What the fuzzer once found stays fixed, and a few hundred fresh cases find nothing new."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.base.errors import InputError
from lib.datasets.word_vectors import read_word_vectors
from lib.training import checkpoint, schema
from tests.stress import fuzz
from tests.stress.fuzz import FORMATS, FOUND, Evil
from tests.stress.kill_harness import differences

CASES = 150  # of each format here; `python -m tests.stress.fuzz` runs as many as one likes
CRASHES = "ends the process (-11)"  # inside the HDF5 library, which not every damage spares


@pytest.mark.parametrize("name", FORMATS)
def test_fresh_cases_are_read_or_refused(name: str) -> None:
    found = fuzz.fuzz(FORMATS[name], 2024, range(CASES))
    assert [case for case in found if (name, case[1]) != ("features", CRASHES)] == []


@pytest.mark.parametrize("path", sorted(FOUND.glob("*-*.*")), ids=lambda path: path.name)
def test_kept_cases_are_read_or_refused(path: Path, tmp_path: Path) -> None:
    """The name begins with the format."""
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert fuzz.check(FORMATS[path.name.split("-")[0]].read, copy) == ""


def test_a_table_of_durations_with_an_endless_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations-long.json").write_text('"' + "x" * 140_000)
    assert fuzz.check(FORMATS["annotations"].read, tmp_path / "annotations-long.json") == ""


def test_a_pickle_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    """Twelve bytes: a dictionary to be remembered under the number 2^32 - 1."""
    path = tmp_path / "glove.pkl"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(InputError, match="is not a readable pickle .MemoryError"):
        read_word_vectors(path)


def test_a_pickle_with_arrays_of_addresses_is_refused(tmp_path: Path) -> None:
    """NumPy would take the bytes of such an array for places in memory."""
    path = tmp_path / "glove.pkl"
    path.write_bytes(pickle.dumps({"the": np.array([1.0, None], dtype=object)}))
    with pytest.raises(InputError, match=r"asks for numpy.dtype\('O8'\)"):
        read_word_vectors(path)


def test_a_pickle_of_lists_that_hold_each_other_is_refused_at_once(tmp_path: Path) -> None:
    """Sixty lists that are 2^60 when they are written out."""
    lists: list[Any] = [1.0]
    for _ in range(60):
        lists = [lists, lists]
    for vector in (lists, [1.0, lists]):
        (tmp_path / "glove.pkl").write_bytes(pickle.dumps({"the": vector}))
        with pytest.raises(InputError, match="'the' -> list of shape"):
            read_word_vectors(tmp_path / "glove.pkl")


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"case{FORMATS[name].suffix}"
        path.write_bytes(data)
        assert fuzz.check(FORMATS[name].read, path) == ""


# Not the names whose content the schema checks: crafted checkpoints have tests of their own.
UNCHECKED = st.text(max_size=8).filter(lambda name: name not in schema._STATE)


@settings(max_examples=60, deadline=None)
@given(state=st.dictionaries(UNCHECKED, TREES))
def test_any_state_comes_back_from_its_checkpoint(state: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "last.pt", state)
        assert not list(differences(state, checkpoint.load(Path(folder) / "last.pt")))


def test_a_case_is_a_function_of_format_seed_and_number() -> None:
    for kind in FORMATS.values():
        if kind.name != "features":  # HDF5 writes the time into its files
            assert fuzz.case(kind, 3, 5) == fuzz.case(kind, 3, 5) != fuzz.case(kind, 3, 6)


class TestTheFuzzerItself:
    """A reader with each fault is found out."""

    def reader(self, act) -> fuzz.Format:
        return fuzz.Format("sabotaged", lambda draw: b"x", lambda path: act(), ".txt")

    def found(self, act) -> list[tuple[int, str]]:
        return fuzz.fuzz(self.reader(act), 0, range(2))

    def test_sees_an_exception(self) -> None:
        ((_, reported), _) = self.found(lambda: {}["key"])
        assert reported.startswith("KeyError in test_fuzz.py")

    def test_sees_a_hang(self, monkeypatch) -> None:
        monkeypatch.setattr(fuzz, "SECONDS", 1)

        def hang() -> None:
            while True:
                pass

        assert fuzz.fuzz(self.reader(hang), 0, range(1)) == [(0, "hangs")]

    def test_sees_a_crash_and_goes_on(self) -> None:
        assert self.found(os.abort) == [(0, "ends the process (-6)"), (1, "ends the process (-6)")]

    def test_sees_a_bomb(self) -> None:
        ((_, reported), _) = self.found(lambda: bytes(2**33))
        assert reported.startswith("MemoryError")

    def test_sees_code_that_was_run(self) -> None:
        ((_, reported), _) = self.found(lambda: pickle.loads(pickle.dumps(Evil())))
        assert reported == "code in the file was run"
