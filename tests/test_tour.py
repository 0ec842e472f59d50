"""The notebook that leads from a trained run to an answer runs to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"


def test_the_tour_runs_to_its_end(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    client = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    pytest.importorskip("matplotlib", reason="the pictures need matplotlib")
    monkeypatch.setenv("TOUR_FILES", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("image/png" in str(outputs) for outputs in shown) == 2  # readers see it as it ran
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client.NotebookClient(notebook, timeout=240, resources=where).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (found,) = [cell for cell in cells if "median rank" in cell.source]
    assert found.outputs[0].text.startswith("median rank of the right video: 1 of 660")
    assert "qwxyzzes" in str(cells[-1].outputs)
