"""Gradients of the losses of CNM, CPL, MS-SL, PPS and PRVG against those of their formulas, in
loops, as in ``test_gradients``: float64, to 1e-8, in value and in every entry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lib.models.cnm import CNM, CNMOutput
from lib.models.cpl import CPL, CPLOutput
from lib.models.layers.gaussian import outside_windows, proposal_windows, unscaled_windows
from lib.models.ms_sl import MSSL
from lib.models.pps import PPS, PPSOutput
from lib.models.prvg import PRVG, PRVGOutput
from tests.properties import DIMS, make_batch
from tests.test_gradients import (  # noqa: F401  (the first sets float64 for every test here)
    assert_same,
    full_precision_is_double,
    in_double,
    leaf,
)

M, P, F = 6, 3, 5


def hinge(x: Tensor) -> Tensor:
    return x if x.item() > 0 else x * 0


def slow_rank(nll: Tensor, other: Tensor, margins: tuple[float, ...]) -> Tensor:
    total = torch.zeros(())
    for m in range(len(nll)):
        best = min(nll[m], key=lambda x: x.item())
        for r, margin in enumerate(margins):
            total = total + hinge(best - other[m, r] + margin) / len(nll)
    return total


def slow_best(nll: Tensor, whole: Tensor) -> Tensor:
    total = torch.zeros(())
    for m in range(len(nll)):
        total = total + (min(nll[m], key=lambda x: x.item()) + whole[m]) / (2 * len(nll))
    return total


def slow_gram(rows: list[Tensor], spread: float) -> Tensor:
    """Of one sentence's windows."""
    total, unit = torch.zeros(()), [row / row.sum() for row in rows]
    for i, a in enumerate(unit):
        for j, b in enumerate(unit):
            total = total + ((a * b).sum() - spread * (i == j)) ** 2
    return total


def windows(*shape: int) -> Tensor:
    return torch.rand(*shape).add(0.1).requires_grad_()


def test_cpl() -> None:
    batch, nll, other, g = make_batch((2, 3, 1)), leaf(M, P), leaf(M, 3), windows(M, P, F)
    out = CPLOutput(torch.zeros(M, P, 2), g, nll, other)
    terms = CPL.losses(reference_margin=0.3, outside_margin=0.4, spread=0.2)
    assert_same(terms["reconstruction"](out, batch), slow_best(nll, other[:, 0]), nll, other)
    assert_same(terms["rank"](out, batch), slow_rank(nll, other, (0.3, 0.4, 0.4)), nll, other)
    slow = sum(slow_gram(list(g[m]), 0.2) / M for m in range(M))
    assert_same(terms["diversity"](out, batch), slow, g)


def test_cnm() -> None:
    batch, nll, other = make_batch((2, 3, 1)), leaf(M, 1), leaf(M, 2)
    out = CNMOutput(torch.zeros(M, 1, 2), torch.ones(M, 1, F), nll, other)
    terms = CNM.losses(whole_margin=0.3, outside_margin=0.4)
    slow = sum((nll[m, 0] + other[m, 0]) / M for m in range(M))
    assert_same(terms["reconstruction"](out, batch), slow, nll, other)
    assert_same(terms["rank"](out, batch), slow_rank(nll, other, (0.3, 0.4)), nll, other)


def test_pps() -> None:
    K, J = 4, 10
    batch, nll, other, g = make_batch((2, 3, 1)), leaf(M, K), leaf(M, 2), windows(M, K, F)
    each, centers = windows(M, J, F), windows(M, J)
    out = PPSOutput(torch.zeros(M, K, 2), g, centers, each, nll, other)
    terms = PPS.losses(reference_margin=0.3, negative_margin=0.4, spread=0.2)
    assert_same(terms["reconstruction"](out, batch), slow_best(nll, other[:, 0]), nll, other)
    assert_same(terms["rank"](out, batch), slow_rank(nll, other, (0.3, 0.4)), nll, other)
    slow = sum(slow_gram(list(g[m]), 0.2) / M for m in range(M))
    assert_same(terms["push"](out, batch), slow, g)
    inside = pull = torch.zeros(())
    for k in range(2, K + 1):
        own = range(k * (k - 1) // 2, k * (k + 1) // 2)
        for m in range(M):
            inside = inside + slow_gram([each[m, j] for j in own], 0.2) / M
            found = sorted((centers[m, j] for j in own), key=lambda x: x.item())
            pull = pull + (found[-1] - found[0]) ** 2 / M
    assert_same(terms["push_inside"](out, batch), inside, each)
    assert_same(terms["pull"](out, batch), pull, centers)


def test_prvg() -> None:
    batch, T = in_double(), 8
    spans, attention = torch.rand(M, 2).requires_grad_(), windows(M, T)
    kept = torch.tensor([1.0, 0, 1, 1, 1, 1])
    out = PRVGOutput(spans, attention, kept)
    truth = batch.flat(batch.moments)
    inside = distance = overlap = torch.zeros(())
    generalised = torch.zeros(())
    for m, b in enumerate(batch.owner.tolist()):
        if not kept[m]:
            continue
        s, e = (x / batch.duration[b] for x in truth[m])
        mass = sum(attention[m, k] for k in range(T) if s <= k / T <= e)
        inside = inside - (mass + 1e-10).log() / math.log(2) / 5
        distance = distance + ((spans[m, 0] - s).abs() + (spans[m, 1] - e).abs()) / 5
        a, z = spans[m]
        shared, hull = min(z, e) - max(a, s), max(z, e) - min(a, s)
        overlap = overlap + (1 - hinge(torch.as_tensor(shared)) / hull) / 5
        a, z = sorted(spans[m], key=lambda x: x.item())
        shared, hull = hinge(torch.as_tensor(min(z, e) - max(a, s))), max(z, e) - min(a, s)
        union = (z - a) + (e - s) - shared
        generalised = generalised + (1 - shared / union + (hull - union) / hull) / 5
    terms = PRVG.losses()
    assert_same(terms["attention"](out, batch), torch.as_tensor(inside), attention)
    assert_same(terms["distance"](out, batch), distance, spans)
    assert_same(terms["overlap"](out, batch), overlap, spans)
    assert_same(PRVG.losses(generalised=True)["overlap"](out, batch), generalised, spans)


# MS-SL.


def slow_ms_sl(
    q: Tensor, clips: Tensor, frames: Tensor, attention: tuple[Tensor, Tensor], owner: list[int]
) -> dict[str, Tensor]:
    """The released formulas, a sentence and a window at a time; sentences of one video are each
    other's column only where they are the same. Pools of one: negatives are the hardest."""
    M, B, N = len(q), *clips.shape[:2]
    cosine = lambda a, b: a @ b / (a.norm() * b.norm())  # noqa: E731
    best = lambda values: max(values, key=lambda x: x.item())  # noqa: E731
    runs = [(start, w) for w in range(1, N + 1) for start in range(N - w + 1)]
    pooled = [[sum(v[start : start + w]) / w for start, w in runs] for v in clips]
    S_c = [[best([cosine(x, p) for p in pooled[b]]) for b in range(B)] for x in q]
    D_c = [[best([x @ p for p in pooled[b]]) for b in range(B)] for x in q]
    (key, value), attended = attention, []
    for m, b in enumerate(owner):
        guide = key @ best_of(pooled[b], [cosine(q[m], p) for p in pooled[b]])
        weights = [(guide @ row).exp() for row in frames[b]]
        seen = sum(x * (value @ row) for x, row in zip(weights, frames[b], strict=True))
        attended.append(seen / sum(weights))
    S_f = [[cosine(q[i], attended[m]) for m in range(M)] for i in range(M)]
    D_f = [[q[i] @ attended[m] for m in range(M)] for i in range(M)]

    clip_nce = clip_triplet = frame_nce = frame_triplet = torch.zeros(())
    for i in range(M):
        own = owner[i]
        clip_nce = clip_nce + (sum(x.exp() for x in D_c[i]).log() - D_c[i][own]) / M
        rival = best([S_c[i][v] for v in range(B) if v != own])
        clip_triplet = clip_triplet + hinge(0.2 + rival - S_c[i][own]) / M
        others = [j for j in range(M) if owner[j] != own]
        total = 2 * D_f[i][i].exp() + sum(D_f[i][j].exp() + D_f[j][i].exp() for j in others)
        frame_nce = frame_nce + (total.log() - D_f[i][i]) / M
        for rivals in ([S_f[i][j] for j in others], [S_f[j][i] for j in others]):
            frame_triplet = frame_triplet + hinge(0.2 + best(rivals) - S_f[i][i]) / M
    for v in range(B):
        mine = [i for i in range(M) if owner[i] == v]
        everyone = sum(D_c[i][v].exp() for i in range(M)).log()
        clip_nce = clip_nce + (everyone - sum(D_c[i][v].exp() for i in mine).log()) / B
        rival = best([S_c[i][v] for i in range(M) if owner[i] != v])
        mean = sum(S_c[i][v] for i in mine) / len(mine)
        clip_triplet = clip_triplet + hinge(0.2 + rival - mean) / B
    return {
        "clip_nce": clip_nce,
        "clip_hard_triplet": clip_triplet,
        "frame_nce": frame_nce,
        "frame_hard_triplet": frame_triplet,
    }


def best_of(items: list[Tensor], scores: list[Tensor]) -> Tensor:
    return items[max(range(len(items)), key=lambda p: scores[p].item())]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3, 1)])
def test_ms_sl(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one sentence a video they are the released ones."""
    B, M, D = len(sizes), sum(sizes), 6
    batch = make_batch(sizes)
    model = MSSL(DIMS, hidden_size=D, heads=2)
    q, clips, frames = leaf(M, D), leaf(B, 8, D), leaf(B, 32, D)
    with torch.no_grad():
        model.attended_by.weight.normal_(std=0.5)
        model.attended.weight.normal_(std=0.5)
    attention = model.attended_by.weight, model.attended.weight
    for name, value in (("_queries", q), ("_clips", clips), ("_frames", frames)):
        monkeypatch.setattr(model, name, lambda _, value=value: value)
    wanted = slow_ms_sl(q, clips, frames, attention, batch.owner.tolist())
    terms, out = MSSL.losses(pool=1), model(batch)
    for name, formula in wanted.items():
        of_frames = [frames, *attention] if name.startswith("frame") else []
        assert_same(terms[name](out, batch), formula, q, clips, *of_frames)


# Windows, whose parameters learn through them.


def test_windows() -> None:
    c, w = torch.rand(4).requires_grad_(), torch.rand(4).add(0.15).requires_grad_()
    weights = torch.randn(4, F)
    nine = unscaled = left = right = torch.zeros(())
    for i in range(4):
        bells, sides = [], ([], [])
        a = max(c[i] - w[i] / 2, c[i] * 0) * 0.7 / 2
        b = max(1 - c[i] - w[i] / 2, c[i] * 0) * 0.7 / 2
        deviations = [max(x.item(), 0.01) / 4.5 if x.item() < 0.01 else x / 4.5 for x in (a, b)]
        for k in range(F):
            x = k / (F - 1)
            bells.append((-((x - c[i]) ** 2) / (2 * (w[i] / 6) ** 2)).exp())
            unscaled = unscaled + weights[i, k] * (-5 * ((x - c[i]) / w[i]) ** 2).exp()
            for side, (center, s) in enumerate(zip((a, 1 - b), deviations, strict=True)):
                sides[side].append((-((x - center) ** 2) / (2 * s**2)).exp())
        for k in range(F):
            nine = nine + weights[i, k] * bells[k] / max(bells)
            left = left + weights[i, k] * sides[0][k] / max(sides[0])
            right = right + weights[i, k] * sides[1][k] / max(sides[1])
    assert_same((weights * proposal_windows(c, w, F, deviations=6)).sum(), nine, c, w)
    assert_same((weights * unscaled_windows(c, w, F, sharpness=5)).sum(), unscaled, c, w)
    found = outside_windows(c, w, F, extent=0.7)
    assert_same((weights * found[0]).sum(), left, c, w)
    assert_same((weights * found[1]).sum(), right, c, w)
