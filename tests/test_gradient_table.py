"""What teaches what is what the tables say: see ``tests/gradient_table.py``."""

from __future__ import annotations

import pytest

from lib.models import MODELS
from lib.models.dmr_jrg import DMRJRG
from lib.models.dmr_jrg_evidence import DMRJRGEvidence
from tests.gradient_table import FOLDER, page, table
from tests.variants import ALIGNED, PARAGRAPH_SOFTMAX, small


@pytest.mark.parametrize("name", MODELS)
def test_the_table_is_current(name: str) -> None:
    """A difference is a change of what a loss teaches: mean it, then write the table again."""
    kept = (FOLDER / f"{name}.txt").read_text("utf-8")
    assert page(name) == kept, "run: python -m tests.gradient_table --write"


def test_there_is_a_table_for_each_model_and_no_other() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(MODELS)


def test_a_term_that_is_kept_away_is_seen() -> None:
    """The table of a model that detaches its sentences differs from the one that does not."""

    class Detached(DMRJRG):
        def map_features(self, clips, sentences, layout, added=()):  # type: ignore[no-untyped-def]
            return super().map_features(clips, sentences.detach(), layout, added)

    plain, detached = (table(lambda k=k: small(k)) for k in (DMRJRG, Detached))
    assert plain["temporal"]["text"] and not detached["temporal"]["text"]
    assert detached["retrieval_nce"] == plain["retrieval_nce"]


def test_evidence_is_read_without_teaching_what_made_it() -> None:
    """The map's own terms reach neither the alignment's projection nor, through the evidence, its
    scale; the alignment's terms reach no part of the map."""
    reached = table(lambda: small(DMRJRGEvidence, decoding=PARAGRAPH_SOFTMAX, **ALIGNED))
    of_map = {"cell", "query", "context", "score", "evidence_cell", "position_cell"}
    for term in ("rank", "temporal", "temporal_teacher", "reconstruction"):
        assert not reached[term]["alignment"], term
    for term in ("sentence_nce", "within_nce"):
        assert reached[term]["alignment"] and not any(reached[term][part] for part in of_map), term
