"""Loss terms against numbers worked by hand and against slow obvious versions."""

from __future__ import annotations

import math

import pytest
import torch

from lib.losses import Criterion
from lib.losses.overlap import remaining_mass, scaled_iou_bce
from lib.losses.reconstruction import candidate_nll, rank_by_reconstruction
from lib.losses.similarity import distill, info_nce, triplet
from tests.properties import make_batch

OWN = torch.eye(2, dtype=torch.bool)


def test_info_nce_by_hand() -> None:
    """S = [[1, 0], [0, 1]], scale 1: each of the four rows costs log(1 + e^-1)."""
    value = info_nce(torch.eye(2), torch.tensor(1.0), OWN)
    assert value.item() == pytest.approx(2 * math.log(1 + math.exp(-1)))


def test_info_nce_equals_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    S, same = torch.randn(5, 5), torch.eye(5, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    expected = 0.0
    for matrix in (S, S.T):
        for b in range(5):
            others = [z for z in range(5) if z == b or not same[b, z]]
            denominator = sum(math.exp(2 * matrix[b, z]) for z in others)
            expected -= math.log(math.exp(2 * matrix[b, b]) / denominator) / 5
    assert info_nce(S, torch.tensor(2.0), same).item() == pytest.approx(expected, rel=1e-5)


def test_triplet_by_hand() -> None:
    """With two items the negative is the other one: max(0, .2 + .5 - .6) + max(0, .2 + .1 - .3)
    over rows and the same over columns, .2 + .1 - .6 < 0 and .2 + .5 - .3."""
    S = torch.tensor([[0.6, 0.5], [0.1, 0.3]])
    rows = (0.1 + 0.0) / 2
    columns = (0.0 + 0.4) / 2
    assert triplet(S, OWN, margin=0.2).item() == pytest.approx(rows + columns, abs=1e-6)


def test_triplet_draws_each_negative_and_never_the_same_video() -> None:
    S = torch.zeros(4, 4)
    S[0] = torch.tensor([0.0, 1.0, 2.0, 4.0])
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    seen = set()
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        only_row = triplet(S, same, margin=0.0, generator=g)
        seen.add(round(only_row.item() * 4))
    assert {2, 4} <= seen and all(value >= 2 for value in seen)


def test_a_batch_without_negatives_costs_nothing() -> None:
    same = torch.ones(3, 3, dtype=torch.bool)
    S = torch.randn(3, 3, requires_grad=True)
    total = triplet(S, same, margin=0.2) + info_nce(S, torch.tensor(5.0), same)
    total.backward()
    assert total.item() == 0 and torch.isfinite(S.grad).all()


def test_distill_moves_the_student_only() -> None:
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.5]], requires_grad=True)
    value = distill(student, teacher)
    value.backward()
    assert value.item() == pytest.approx((1 + 0.25) / 2)
    assert student.grad.tolist() == [[1.0, -0.5]] and teacher.grad is None


def test_scaled_iou_bce_by_hand() -> None:
    """Overlaps .5, .75, 1 become targets 0, .5, 1; at logit 0 every cell costs log 2."""
    overlap = torch.tensor([[0.5, 0.75, 1.0]])
    value = scaled_iou_bce(torch.zeros(1, 3), overlap, min_iou=0.5, max_iou=1.0)
    assert value.item() == pytest.approx(math.log(2))
    sure = torch.tensor([[-30.0, 0.0, 30.0]])
    value = scaled_iou_bce(sure, overlap, min_iou=0.5, max_iou=1.0)
    assert value.item() == pytest.approx(math.log(2) / 3, rel=1e-4)


def test_scaled_iou_bce_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="0.7 and 0.7"):
        scaled_iou_bce(torch.zeros(1, 1), torch.zeros(1, 1), min_iou=0.7, max_iou=0.7)


@pytest.mark.parametrize("reverse", [False, True])
def test_remaining_mass_is_the_paper_s_recursion_on_features(reverse: bool) -> None:
    """Equation 18 as it is written: features damped by 1 - sum of P, then the prediction layer."""
    torch.manual_seed(0)
    B, S, P, D = 2, 4, 5, 3
    features, head = torch.randn(B, S, P, D), torch.nn.Linear(D, 1)
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    fast = remaining_mass(features @ head.weight[0], head.bias, mask, reverse=reverse)
    for b in range(B):
        real = [s for s in range(S) if mask[b, s]]
        total = torch.zeros(P)
        for s in reversed(real) if reverse else real:
            left = (1 - total).clamp(min=0)
            slow = head(features[b, s] * left[:, None]).squeeze(-1)
            assert torch.allclose(fast[b, s], slow, atol=1e-5)
            total = total + slow.sigmoid()


def test_candidate_nll_is_a_mean_over_the_words_of_each_sentence() -> None:
    torch.manual_seed(0)
    Q, V = 2, 6
    sentence = torch.tensor([0, 0, 0, 1])
    target = torch.tensor([2, 3, 1, 5])
    logits = torch.randn(Q, 4, V)
    found = candidate_nll(logits, target, sentence, 2, label_smoothing=0.0)
    logp = logits.log_softmax(dim=-1)
    for q in range(Q):
        words = [-logp[q, r, target[r]].item() for r in range(4)]
        assert found[0, q].item() == pytest.approx(sum(words[:3]) / 3, rel=1e-5)
        assert found[1, q].item() == pytest.approx(words[3], rel=1e-5)


def test_rank_loss_by_hand() -> None:
    """nll (2, 1, 3): rewards (.5, 1, 0). Scores all equal: each log-soft-max is -log 3, so the
    loss is 1.5 · log 3 / 3."""
    nll = torch.tensor([[2.0, 1.0, 3.0]])
    value = rank_by_reconstruction(torch.zeros(1, 3), nll)
    assert value.item() == pytest.approx(1.5 * math.log(3) / 3)


def test_rank_loss_raises_the_score_of_the_best_reconstruction() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    rank_by_reconstruction(scores, torch.tensor([[2.0, 1.0, 3.0]])).backward()
    assert scores.grad.argmin() == 1 and scores.grad.argmax() == 2


def test_one_candidate_has_nothing_to_rank() -> None:
    assert rank_by_reconstruction(torch.randn(4, 1), torch.randn(4, 1)).item() == 0


def test_the_criterion_skips_what_weighs_nothing() -> None:
    def explode(out: object, batch: object) -> torch.Tensor:
        raise AssertionError("computed")

    criterion = Criterion({"a": lambda o, b: torch.tensor(2.0), "b": explode}, {"a": 3, "b": 0})
    assert criterion(None, make_batch((1,))) == {"total": torch.tensor(6.0), "a": torch.tensor(2.0)}
    assert criterion.active == {"a"}


def test_the_criterion_refuses_a_weight_for_no_term() -> None:
    with pytest.raises(ValueError, match="'c'"):
        Criterion({"a": lambda o, b: torch.tensor(1.0)}, {"c": 1.0})
    with pytest.raises(ValueError, match="zero"):
        Criterion({"a": lambda o, b: torch.tensor(1.0)}, {"a": 0.0})
