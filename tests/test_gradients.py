"""Gradients of the losses of MMN, CDN, DCIML and JSG against those of their formulas, in loops.

The formulas are written one sentence, one cell and one number at a time, in float64, and their
gradients are PyTorch's of these scalars; nothing is shared with the vectorised versions but the
leaves. Both sides must agree to 1e-8, in value and in every entry of every gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lib.losses.diversity import gram_distance
from lib.losses.mutual import pull
from lib.losses.reconstruction import candidate_nll
from lib.losses.sentences import sentence_triplet
from lib.models.cdn import CDN, CDNOutput
from lib.models.dciml import DCIML, DCIMLOutput, GuidedGrounding, GuidedRetrieval
from lib.models.jsg import JSG
from lib.models.layers.gaussian import outside_windows, proposal_windows
from lib.models.layers.grounding_branch import Grounded
from lib.models.layers.retrieval_branch import Retrieved
from lib.models.mmn import MMN, MMNOutput
from tests.properties import DIMS, make_batch


@pytest.fixture(autouse=True)
def full_precision_is_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Losses bring what they read to float32 at least; here that is float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def leaf(*shape: int, unit: bool = False) -> Tensor:
    x = torch.randn(*shape)
    x = x / x.norm(dim=-1, keepdim=True) if unit else x
    return x.requires_grad_()


def assert_same(ours: Tensor, formula: Tensor, *leaves: Tensor, still: tuple[Tensor, ...] = ()):
    """``still`` are leaves that the loss must leave alone."""
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(formula.item(), abs=1e-8)
    found = torch.autograd.grad(ours, [*leaves, *still], allow_unused=True, retain_graph=True)
    expected = torch.autograd.grad(formula, leaves, retain_graph=True)
    for gradient, wanted in zip(found, expected, strict=False):
        assert wanted.abs().max() > 1e-6
        assert torch.allclose(gradient, wanted, rtol=0, atol=1e-8)
    assert all(g is None or not g.any() for g in found[len(leaves) :])


def in_double():
    batch = make_batch((2, 3, 1))
    return dataclasses.replace(
        batch, moments=batch.moments.double(), duration=batch.duration.double()
    )


def overlap_of(a: Tensor, b: Tensor) -> float:
    shared = max(0.0, min(a[1].item(), b[1].item()) - max(a[0].item(), b[0].item()))
    return shared / ((a[1] - a[0]).item() + (b[1] - b[0]).item() - shared)


def cross_entropy(logit: Tensor, target: float) -> Tensor:
    p = 1 / (1 + (-logit).exp())
    return -(target * p.log() + (1 - target) * (1 - p).log())


SPANS = torch.tensor(
    [[0.0, 0.25], [0.25, 0.5], [0.5, 1.0], [0.0, 0.75], [0.125, 1.0], [0.625, 0.75]],
    dtype=torch.float64,
)


def slow_overlap(logits: Tensor, batch, low: float, high: float) -> Tensor:
    truth, total = batch.flat(batch.moments), torch.zeros(())
    M, P = logits.shape
    for s, b in enumerate(batch.owner.tolist()):
        for p in range(P):
            found = overlap_of(truth[s], SPANS[p] * batch.duration[b])
            target = min(max((found - low) / (high - low), 0.0), 1.0)
            total = total + cross_entropy(logits[s, p], target) / (M * P)
    return total


# MMN.


@pytest.mark.parametrize("positives", [1, 2])
def test_mutual_matching(positives: int) -> None:
    batch, m, tau = in_double(), 0.3, 0.1
    B, P, M = 3, len(SPANS), 6
    V, T, logits = leaf(B, P, 4, unit=True), leaf(M, 4, unit=True), leaf(M, P)
    out = MMNOutput(cells=V, sentences=T, overlap_logits=logits, spans=SPANS)
    terms = MMN.losses(
        positives=positives, margin=m, temperature=tau, min_iou=0.2, max_iou=0.8, negative_iou=0.3
    )
    assert_same(terms["overlap"](out, batch), slow_overlap(logits, batch, 0.2, 0.8), logits)

    owner, truth = batch.owner.tolist(), batch.flat(batch.moments)
    video = sentence = torch.zeros(())
    for s, b in enumerate(owner):
        found = [overlap_of(truth[s], SPANS[p] * batch.duration[b]) for p in range(P)]
        for best in sorted(range(P), key=lambda p: -found[p])[:positives]:
            positive = (((V[b, best] * T[s]).sum() - m) / tau).exp()
            rivals = [
                u
                for u in range(M)
                if u != s and (owner[u] != b or overlap_of(truth[s], truth[u]) < 0.3)
            ]
            among = sum(((V[b, best] * T[u]).sum() / tau).exp() for u in rivals)
            video = video - (positive / (positive + among)).log() / (positives * M)
            cells = [(c, p) for c in range(B) for p in range(P) if c != b or found[p] < 0.3]
            among = sum(((V[c, p] * T[s]).sum() / tau).exp() for c, p in cells)
            sentence = sentence - (positive / (positive + among)).log() / (positives * M)
    assert_same(terms["proposal_to_sentence"](out, batch), video, V, T)
    assert_same(terms["sentence_to_proposal"](out, batch), sentence, V, T)


# CDN.


def test_cdn() -> None:
    batch = in_double()
    logits, raw = leaf(6, len(SPANS)), leaf(3, 2, 4, 2)
    attention = raw.softmax(dim=2)
    terms = CDN.losses(min_iou=0.3, max_iou=0.9, attention_spread=0.3)
    out = CDNOutput(logits, SPANS, attention)
    assert_same(terms["overlap"](out, batch), slow_overlap(logits, batch, 0.3, 0.9), logits)
    total = torch.zeros(())
    for b in range(3):
        for k in range(2):
            for f in range(4):
                for g in range(4):
                    product = sum(attention[b, k, f, a] * attention[b, k, g, a] for a in range(2))
                    total = total + (product - 0.3 * (f == g)) ** 2 / 6
    assert_same(terms["attention"](out, batch), total, raw)


# DCIML.


def grounded(**parts: Tensor) -> DCIMLOutput:
    """An output whose grounding branch said this, and whatever else."""
    M, Q = 6, 3
    filler = torch.rand(M, Q, 2).sort(dim=-1).values
    nll = parts.get("nll", torch.rand(M, Q))
    rest = {
        "spans": filler,
        "windows": torch.rand(M, Q, 5),
        "nll": nll,
        "best": nll.argmin(dim=1, keepdim=True),
    }
    return DCIMLOutput(grounded=Grounded(**{**rest, **parts}))


def retrieved(**parts: Tensor) -> Retrieved:
    blank = torch.zeros(6, 3)
    names = ("clip", "clip_product", "frame", "frame_product")
    rest = {**dict.fromkeys(names, blank), "own_clips": torch.zeros(6, 5)}
    return Retrieved(**{**rest, **parts})


def test_dciml_s_contrast() -> None:
    batch, S = in_double(), leaf(6, 3)
    owner = batch.owner.tolist()
    rows = columns = torch.zeros(())
    for n in range(6):
        rows = rows - (S[n, owner[n]].exp() / sum(S[n, b].exp() for b in range(3))).log()
    for b in range(3):
        own = sum(S[n, b].exp() for n in range(6) if owner[n] == b)
        columns = columns - (own / sum(S[n, b].exp() for n in range(6))).log()
    for name in ("clip", "frame"):
        out = DCIMLOutput(retrieved=retrieved(**{f"{name}_product": S}))
        assert_same(DCIML.losses()[f"{name}_nce"](out, batch), rows / 6 + columns / 3, S)


def test_dciml_s_triplets() -> None:
    """Two videos: the other video is the only one to draw."""
    S, owner = leaf(5, 2), torch.tensor([0, 0, 1, 1, 1])
    S.data *= 0.3
    total = torch.zeros(())
    for n, b in enumerate(owner.tolist()):
        total = total + (0.2 + S[n, 1 - b] - S[n, b]).clamp(min=0) / 5
    for b in range(2):
        mine = [n for n in range(5) if owner[n] == b]
        others = [n for n in range(5) if owner[n] != b]
        hardest = max(others, key=lambda n: S[n, b].item())
        mean = sum(S[n, b] for n in mine) / len(mine)
        total = total + (0.2 + S[hardest, b] - mean).clamp(min=0) / 2
    videos = torch.eye(2, dtype=torch.bool)
    assert_same(sentence_triplet(S, owner, videos, margin=0.2, sentence_pool=1), total, S)


def test_dciml_s_reconstruction() -> None:
    Q, R, V, M = 2, 5, 7, 2
    logits, target = leaf(Q, R, V), torch.randint(V, (R,))
    sentence = torch.tensor([0, 0, 0, 1, 1])
    found = candidate_nll(logits, target, sentence, M, label_smoothing=0.1)
    chosen = torch.rand(M, Q)
    total = torch.zeros(())
    for q in range(Q):
        for r in range(R):
            total_weight = sum(logits[q, r, v].exp() for v in range(V))
            logs = [logits[q, r, v] - total_weight.log() for v in range(V)]
            nll = -0.9 * logs[int(target[r])] - 0.1 / V * sum(logs)
            s = int(sentence[r])
            total = total + chosen[s, q] * nll / int((sentence == s).sum())
    assert_same((found * chosen).sum(), total, logits)


def test_dciml_s_choice_of_a_proposal() -> None:
    batch, nll, other = in_double(), leaf(6, 3), leaf(6, 3)
    terms = DCIML.losses(reference_margin=0.1, outside_margin=0.15)
    rec = rank = torch.zeros(())
    for n in range(6):
        best = nll[n, min(range(3), key=lambda q: nll[n, q].item())]
        rec = rec + (best + other[n, 0]) / 12
        for which, margin in enumerate((0.1, 0.15, 0.15)):
            rank = rank + (best - other[n, which] + margin).clamp(min=0) / 6
    out = grounded(nll=nll, other_nll=other)
    assert_same(terms["reconstruction"](out, batch), rec, nll, other)
    assert_same(terms["rank"](out, batch), rank, nll, other)


@pytest.mark.parametrize("make", [proposal_windows, outside_windows])
def test_dciml_s_windows_and_their_diversity(make: Callable[..., Tensor]) -> None:
    """Through the windows to what they are made of."""
    batch, F, spread = in_double(), 7, 0.13
    raw = leaf(6, 3, 2)
    c, w = raw.sigmoid().unbind(dim=-1)
    made = make(c, w, F)
    windows = made if isinstance(made, Tensor) else torch.cat(made, dim=1)
    total = torch.zeros(())
    for n in range(6):
        rows = []
        for q in range(3):
            middle, deviation = [(c[n, q], w[n, q] / 9)], []
            if make is outside_windows:
                before = (c[n, q] - w[n, q] / 2).clamp(min=0) / 2
                after = 1 - (1 - c[n, q] - w[n, q] / 2).clamp(min=0) / 2
                middle = [(before, before.clamp(min=0.01) / 4.5)]
                deviation = [(after, (1 - after).clamp(min=0.01) / 4.5)]
            for place, width in middle + deviation:
                bell = [(-((f / (F - 1) - place) ** 2) / (2 * width**2)).exp() for f in range(F)]
                height = max(bell, key=lambda x: x.item())
                heights = [x / height for x in bell]
                rows.append([x / sum(heights) for x in heights])
        for a, left in enumerate(rows):
            for b, right in enumerate(rows):
                product = sum(x * y for x, y in zip(left, right, strict=True))
                total = total + (product - spread * (a == b)) ** 2 / 6
    if make is proposal_windows:
        found = DCIML.losses(spread=spread)["diversity"](grounded(windows=windows), batch)
    else:
        found = gram_distance(windows / windows.sum(dim=-1, keepdim=True), spread)
    assert_same(found, total, raw)


def test_what_dciml_s_branches_tell_each_other() -> None:
    batch, terms, M = in_double(), DCIML.losses(), 6
    own, spans, nll = leaf(M, 5), leaf(M, 3, 2), leaf(M, 3)
    best = nll.argmin(dim=1).tolist()
    said = spans.sigmoid().sort(dim=-1).values
    out = dataclasses.replace(grounded(spans=said, nll=nll), retrieved=retrieved(own_clips=own))
    span = place = torch.zeros(())
    for n in range(M):
        start, end = said[n, best[n]].tolist()
        for k in range(5):
            span = span + cross_entropy(own[n, k], float(4 * start <= k <= 4 * end)) / (5 * M)
        y = (max(range(5), key=lambda k: own[n, k].item()) + 0.5) / 5
        for q in range(3):
            outside = (said[n, q, 0] - y).clamp(min=0) + (y - said[n, q, 1]).clamp(min=0)
            place = place + outside / (3 * M)
    assert_same(terms["span"](out, batch), span, own, still=(spans, nll))
    assert_same(terms["containment"](out, batch), place, spans, still=(own, nll))

    scores, alone = leaf(M, 2), leaf(M, 2)
    guided = DCIMLOutput(guided_retrieval=GuidedRetrieval(scores, alone, torch.zeros(M)))
    hinge = torch.zeros(())
    for n in range(M):
        for branch in range(2):
            base = alone[n, branch].item()
            hinge = hinge + (base - scores[n, branch] + 0.2).clamp(min=0) / M
    assert_same(terms["retrieval_margin"](guided, batch), hinge, scores, still=(alone,))

    again = leaf(M, 3)
    again.data += 5  # worse than alone: the hinge is at work
    out = dataclasses.replace(out, guided_grounding=GuidedGrounding(again, torch.zeros(M)))
    worse = sum(again[n, q] for n in range(M) for q in range(3)) / (3 * M)
    hinge = (worse - nll.detach().mean() + 0.15).clamp(min=0)
    assert_same(terms["grounding_margin"](out, batch), hinge, again, still=(nll,))


def test_the_pull_between_features() -> None:
    features, twin = leaf(2, 3, 4), leaf(2, 3, 4)
    total = torch.zeros(())
    for n in range(2):
        for k in range(3):
            x, y = features[n, k], twin[n, k].detach()
            for d in range(4):
                distance = x[d] / (x * x).sum().sqrt() - y[d] / (y * y).sum().sqrt()
                total = total + distance**2 / 24
    assert_same(pull(features, twin).mean(), total, features, still=(twin,))


# JSG.


def bell(center: float, deviation: float, length: int) -> Tensor:
    """Shares of the rows."""
    place = torch.arange(length) / (length - 1)
    rows = (-((place - center) ** 2) / (2 * deviation**2)).exp()
    return rows / rows.sum()


def slow_jsg(
    q: Tensor, clips: Tensor, frames: Tensor, attention: tuple[Tensor, ...], owner: list[int]
) -> dict[str, Tensor]:
    """The released formulas, a sentence and a proposal at a time; sentences of one video are each
    other's column only where they are the same. Pools of one: negatives are the hardest."""
    M, B = len(q), len(clips)
    centers = torch.linspace(0.1 / 2, 1 - 0.1 / 2, 4).tolist()
    widths, wide = torch.linspace(0.1, 1, 3).tolist(), torch.linspace(0.1, 1, 5).tolist()
    grid = [(c, w) for c in centers for w in widths]
    cosine = lambda a, b: a @ b / (a.norm() * b.norm())  # noqa: E731
    best = lambda values: max(values, key=lambda x: x.item())  # noqa: E731

    pooled = [[bell(c, w / 9, len(v)) @ v for c, w in grid] for v in clips]
    S_c = [[best([cosine(x, p) for p in pooled[b]]) for b in range(B)] for x in q]
    D_c = [[best([x @ p for p in pooled[b]]) for b in range(B)] for x in q]
    own, sides, whole, attended = [], [[], []], [], []
    key, value = attention
    for m, b in enumerate(owner):
        p = max(range(len(grid)), key=lambda p: cosine(q[m], pooled[b][p]).item())
        focus = grid[p][0]
        own.append([bell(focus, w / 9, len(frames[b])) @ frames[b] for w in wide])
        w = wide[max(range(5), key=lambda k: cosine(q[m], own[m][k]).item())]
        S_ff = best([cosine(q[m], g) for g in own[m]])
        left, right = max(focus - w / 2, 0.01) / 4.5, max(1 - focus - w / 2, 0.01) / 4.5
        for side, (middle, deviation) in enumerate([(0, left), (1, right)]):
            rest = bell(middle, deviation, len(frames[b])) @ frames[b]
            sides[side].append((0.15 + cosine(q[m], rest) - S_ff).clamp(min=0))
        whole.append((0.3 + cosine(q[m], frames[b].mean(dim=0)) - S_ff).clamp(min=0))
        share = torch.stack([(key @ pooled[b][p]) @ row for row in frames[b]]).softmax(dim=0)
        attended.append(sum(s * (value @ row) for s, row in zip(share, frames[b], strict=True)))
    S_f = [[best([cosine(q[i], g) for g in own[m]]) for m in range(M)] for i in range(M)]
    D_f = [[best([q[i] @ g for g in own[m]]) for m in range(M)] for i in range(M)]
    S_a = [[cosine(q[i], attended[m]) for m in range(M)] for i in range(M)]
    D_a = [[q[i] @ attended[m] for m in range(M)] for i in range(M)]

    def contrast(X: list[list[Tensor]], column: list[int], video: list[int]) -> Tensor:
        total = torch.zeros(())
        for i in range(M):
            c = column[i]
            row = sum(x.exp() for j, x in enumerate(X[i]) if j == c or video[j] != owner[i])
            other = [j for j in range(M) if j == i or owner[j] != owner[i]]
            total = total + (row + sum(X[j][c].exp() for j in other)).log() - X[i][c]
        return total / M

    def triplet(S: list[list[Tensor]], column: list[int], video: list[int]) -> Tensor:
        total = torch.zeros(())
        for i in range(M):
            rival = best([x for j, x in enumerate(S[i]) if video[j] != owner[i]])
            total = total + (0.2 + rival - S[i][column[i]]).clamp(min=0) / M
        for c in range(len(video)):
            mine = [S[i][c] for i in range(M) if column[i] == c]
            rival = best([S[i][c] for i in range(M) if owner[i] != video[c]])
            total = total + (0.2 + rival - sum(mine) / len(mine)).clamp(min=0) / len(video)
        return total

    each, videos = list(range(M)), list(range(B))
    return {
        "glance_nce": contrast(D_c, owner, videos),
        "glance_hard_triplet": triplet(S_c, owner, videos),
        "gaze_nce": contrast(D_f, each, owner),
        "gaze_hard_triplet": triplet(S_f, each, owner),
        "attention_nce": contrast(D_a, each, owner),
        "attention_hard_triplet": triplet(S_a, each, owner),
        "sides": (sum(sides[0]) + sum(sides[1])) / M,
        "whole": sum(whole) / M,
    }


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3, 1)])
def test_jsg_s_losses(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one sentence a video they are the released ones."""
    B, M, D = len(sizes), sum(sizes), 6
    batch = make_batch(sizes)
    model = JSG(
        DIMS, hidden_size=D, heads=2, num_centers=4, num_widths=3, gaze_widths=5, narrowest=0.1,
        video_level=True,
    )  # fmt: skip
    model.video_level = False  # the gaze teaches the sentences
    q, clips, frames = leaf(M, D), leaf(B, 5, D), leaf(B, 32, D)
    with torch.no_grad():
        model.attended_by.weight.normal_(std=0.5)
        model.attended.weight.normal_(std=0.5)
    attention = model.attended_by.weight, model.attended.weight
    for name, value in (("_queries", q), ("_clips", clips), ("_frames", frames)):
        monkeypatch.setattr(model, name, lambda _, value=value: value)
    wanted = slow_jsg(q, clips, frames, attention, batch.owner.tolist())
    terms = JSG.losses(sides_margin=0.15, whole_margin=0.3, pool=1, glance_pool=1)
    out = model(batch, terms=frozenset(wanted))
    for name, formula in wanted.items():
        leaves = [q, clips]
        if name.startswith(("gaze", "sides", "whole")):
            leaves = [q, frames]
        elif name.startswith("attention"):
            leaves = [q, clips, frames, *attention]
        assert_same(terms[name](out, batch), formula, *leaves)
