"""The parts around the linear alignment: their losses against slow loops, what they leave alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from lib.base.batch import Layout
from lib.base.runtime import Runtime
from lib.decoding import Decoding, Evidence, decode, decode_prior
from lib.evaluation import Predictions, Truth, summarise
from lib.evaluation.retrieval import in_two_stages, shortlisted
from lib.index import places_of
from lib.losses import Criterion
from lib.losses.order import halves_exchanged, ordered_log_mass, reversed_order, right_order
from lib.losses.similarity import distill_listwise
from lib.models.dmr_jrg_linear import ALIGNMENT_TERMS, DMRJRGLinear, shuffled_blocks
from lib.models.first_stage import first_stage_similarity, place_vectors
from lib.models.linear_align import LinearAlign
from lib.training.prediction import first_stage, ground_in, read_split, similarities
from tests.properties import DIMS, make_batch, terms_of
from tests.variants import small

ALL = {
    "grounded_retrieval": True,
    "mask_ratio": 1.0,
    "tied_embeddings": True,
    "density": "dense",
    "decoding": Decoding(method="posterior", ordered=True),
}


def test_listwise_distillation_equals_a_loop() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    expected = 0.0
    for mine, theirs in ((student, teacher), (student.T, teacher.T)):
        for row, target in zip(mine.tolist(), theirs.tolist(), strict=True):
            p, q = ([math.exp(x) / sum(map(math.exp, r)) for x in r] for r in (target, row))
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            expected += kl / len(mine)
    assert distill_listwise(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_listwise_distillation_teaches_the_student_and_is_blind_to_an_offset() -> None:
    student, teacher = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
    distill_listwise(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0 and teacher.grad is None
    same = distill_listwise(teacher.detach() + 5, teacher)
    assert same.item() == pytest.approx(0, abs=1e-6)


def test_ordered_mass_equals_all_placements() -> None:
    torch.manual_seed(0)
    start = torch.tensor([0, 0, 1, 3])  # nothing starts in clip 2
    logp = torch.randn(2, 3, 4).log_softmax(dim=2)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = ordered_log_mass(logp, start, mask)
    for b in range(2):
        real = int(mask[b].sum())
        total = 0.0
        for spans in itertools.product(range(4), repeat=real):
            starts = [int(start[p]) for p in spans]
            if starts == sorted(starts):
                total += math.exp(sum(logp[b, s, p].item() for s, p in enumerate(spans)))
        assert found[b].item() == pytest.approx(math.log(total), abs=1e-5)


def test_orders_are_permutations_that_keep_padding_behind() -> None:
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True] + [False] * 4])
    assert reversed_order(mask).tolist() == [[4, 3, 2, 1, 0], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert halves_exchanged(mask).tolist() == [[3, 4, 0, 1, 2], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_a_paragraph_of_one_sentence_has_no_order() -> None:
    mass = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]], requires_grad=True)
    several = right_order(mass, torch.tensor([3, 1]))
    expected = -torch.tensor([0.0, 1.0, 2.0]).log_softmax(dim=0)[0]
    torch.testing.assert_close(several, expected)
    alone = right_order(mass, torch.tensor([1, 1]))
    alone.backward()
    assert alone.item() == 0 and torch.isfinite(mass.grad).all()


def test_what_the_parts_learn_leaves_the_alignment_alone() -> None:
    """No term but the alignment's own reaches it; and its own reach nothing else."""
    model, batch = small(DMRJRGLinear, **ALL), make_batch()
    for name in terms_of(model):
        model.zero_grad(set_to_none=True)
        criterion = Criterion(model.losses(), {name: 1.0})
        criterion(model(batch, terms=criterion.active), batch)["total"].backward()
        learns = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
        assert ("alignment" in learns) == (name in ALIGNMENT_TERMS), name
        assert name not in ALIGNMENT_TERMS or learns == {"alignment"}


def test_it_ranks_and_grounds_as_the_linear_alignment_with_its_weights() -> None:
    torch.manual_seed(0)
    alone = small(LinearAlign, position_bias=1.0).eval()
    model = small(DMRJRGLinear, position_bias=1.0, **ALL).eval()
    weights = {k: v for k, v in alone.state_dict().items() if not k.startswith("grid.")}
    model.alignment.load_state_dict(weights)
    batch = make_batch()
    outcomes = []
    for each in (alone, model):
        paragraphs, videos = each.encode_paragraphs(batch), each.encode_videos(batch.video)
        evidence = each.ground_pairs(paragraphs, videos, frozenset({"clips"}))
        assert evidence.scores is None
        outcomes.append((each.similarity(paragraphs, videos), evidence.clips["alignment"]))
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_moment_is_compared_with_what_lies_beside_it() -> None:
    model = small(DMRJRGLinear, **ALL)
    spans, T = model.grid.spans, DIMS.num_frames
    for cell in range(len(spans)):
        start, end = (spans[cell] * T).round().long().tolist()
        whole, before, after = model.other_rows[cell]
        exists = [end - start < T, start > 0, end < T]
        assert model.other_exists[cell].tolist() == exists
        assert whole.min() < T // 4 and whole.max() >= 3 * T // 4
        assert start == 0 or before.max() < start
        assert end == T or after.min() >= end


def test_a_moment_that_is_all_there_is_has_nothing_to_beat() -> None:
    model, batch = small(DMRJRGLinear, **ALL), make_batch()
    out = model(batch, terms=frozenset({"contrast"}))
    nothing = torch.zeros_like(out.exists)
    nowhere = type(out)(**{**vars(out), "exists": nothing})
    loss = model.losses()["contrast"]
    assert loss(nowhere, batch).item() == 0
    loss(nowhere, batch).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)
    everything = type(out)(**{**vars(out), "exists": torch.ones_like(out.exists)})
    lead = out.nll.detach()[:, :1] - out.other_nll.detach() + torch.tensor([0.1, 0.15, 0.15])
    expected = lead.clamp(min=0).mean(dim=0).sum()
    torch.testing.assert_close(loss(everything, batch).detach(), expected)


def test_pseudo_labels_are_the_prior_s_where_time_says_nothing() -> None:
    """With the evidence equal in shuffled time the trust is 0, and the labels do not depend on
    it."""
    model, batch = small(DMRJRGLinear, **ALL).eval(), make_batch((5, 4, 3, 5))
    M, N = len(batch.flat_index), DIMS.num_clips
    torch.manual_seed(0)
    labels = []
    for _ in range(2):
        own = torch.randn(M, N)
        parts = {"evidence": own, "shuffled": own, "text": torch.randn(M, 4)}
        labels.append(model._posterior(parts, batch).scores)
    torch.testing.assert_close(*labels)
    assert labels[0].min() >= 0 and labels[0].max() <= 1 + 1e-5
    box = torch.zeros(M, N)
    box[:, 2:5] = 1.0
    mixed = box[:, torch.tensor([3, 6, 1, 4, 7, 2, 5, 0])]
    noise = 0.01 * torch.randn(M, N)
    parts = {"evidence": box + noise, "shuffled": mixed + noise, "text": torch.randn(M, 4)}
    assert not torch.allclose(model._posterior(parts, batch).scores, labels[0], atol=1e-3)


def test_shuffled_blocks_are_the_same_rows_in_another_order() -> None:
    video = torch.arange(32.0).view(1, 32, 1)
    mixed = shuffled_blocks(video)[0, :, 0]
    assert mixed.sort().values.tolist() == video[0, :, 0].tolist()
    inside = (mixed.diff() == 1).view(-1)
    assert int(inside.sum()) == 32 - 8  # no block follows its predecessor


def test_the_plan_is_first_the_alignment() -> None:
    stages = DMRJRGLinear.plan(alignment_epochs=2).stages
    weights = dict.fromkeys(terms_of(small(DMRJRGLinear)), 1.0)
    for epoch, learns in ((1, True), (2, False)):
        (stage,) = stages(epoch)
        kept = {name for name in weights if stage.factors.get(name, 1.0)}
        assert kept == (set(ALIGNMENT_TERMS) if learns else set(weights) - ALIGNMENT_TERMS)
        assert stage.frozen == (() if learns else ("alignment.",))


# The first stage of a search.


def test_the_first_stage_is_the_best_place_of_each_sentence() -> None:
    torch.manual_seed(0)
    model, batch = small(LinearAlign).eval(), make_batch()
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found = first_stage_similarity(model, paragraphs, videos)
    for q, sentences in enumerate(batch.sentence_counts.tolist()):
        for g in range(len(batch)):
            clips = torch.from_numpy(places_of(videos["clips"][g : g + 1].detach().numpy(), 8))[0]
            clips = nn.functional.normalize(clips, dim=-1)
            best = [(clips @ paragraphs["sentences"][q, s]).max() for s in range(sentences)]
            torch.testing.assert_close(found[q, g], torch.stack(best).mean())
    assert place_vectors(torch.randn(3, 5)).shape == (3, 1, 5)


def test_two_stages_rank_the_shortlist_and_then_the_others() -> None:
    rng = torch.Generator().manual_seed(0)
    exact, first = (torch.randn(4, 50, generator=rng).numpy() for _ in range(2))
    kept = shortlisted(first)
    assert (kept.sum(axis=1) == 3).all()  # a twentieth, rounded up
    ranked = in_two_stages(exact, first).argsort(axis=1)[:, ::-1]
    for row in range(4):
        shortlist = sorted(range(50), key=lambda v: -first[row, v])[:3]
        rest = sorted(set(range(50)) - set(shortlist), key=lambda v: -first[row, v])
        expected = sorted(shortlist, key=lambda v: -exact[row, v]) + rest
        assert ranked[row].tolist() == expected


def test_scoring_reads_both_stages_and_the_prior() -> None:
    """Of the composition: S^r beside the alignment's number, and what its decoding makes of no
    evidence beside its spans."""
    model, batch = small(DMRJRGLinear, **ALL).eval(), make_batch()
    runtime = Runtime.start("cpu")
    read = read_split(model, [batch], [batch.video], runtime, num_videos=len(batch))
    exact, first = similarities(model, read, runtime), first_stage(model, read, runtime)
    tokens = read.paragraphs[0]["token"] @ read.videos["token"].T
    np.testing.assert_allclose(first, tokens.numpy(), atol=1e-6)
    assert exact is not None and not np.allclose(exact, first)
    decoding = Decoding(method="posterior", ordered=True)
    found = ground_in(
        model, read, np.arange(4)[:, None], runtime, decoding, {"trust": 1.0},
        pairs=100, moments=3, nms_iou=0.5,
    )  # fmt: skip
    assert found is not None and found.prior is not None
    counts = batch.sentence_counts.numpy()
    owner = np.repeat(np.arange(4), counts)
    truth = Truth(
        video_ids=tuple("abcd"),
        durations=np.full(4, 10.0),
        paragraph_ids=tuple("pqrs"),
        paragraph_video=np.arange(4),
        sentence_paragraph=owner,
        moments=np.tile([1.0, 4.0], (len(owner), 1)),
        sentences=("a sentence",) * len(owner),
    )
    summary = summarise(
        truth,
        Predictions(exact, found.spans, found.scores, prior=found.prior, first_stage=first),
        resamples=0,
    )
    assert {"vr", "vr_first_stage", "vr_two_stages"} <= set(summary["protocols"])
    assert {"shortlist_keeps_best", "shortlist_keeps_ten"} <= set(summary["diagnostics"])
    assert "prior of the decoding" in summary["floors"]["svmr"]
    assert first_stage(small(DMRJRGLinear, retrieval="mean").eval(), read, runtime) is not None


def test_the_prior_of_a_decoding_is_what_it_makes_of_flat_evidence() -> None:
    layout = Layout.of(torch.tensor([[True, True], [True, False]]))
    spans = torch.tensor([[0.0, 0.25], [0.0, 0.5], [0.25, 0.75], [0.5, 1.0]])
    flat, some = torch.zeros(3, 8), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    evidence = [Evidence(layout, spans, 8, clips={"alignment": x}) for x in (flat, some)]
    decoding = Decoding(method="posterior", ordered=True)
    expected = decode(evidence[0], decoding).scores
    for each in evidence:
        prior = decode_prior(each, decoding)
        assert prior is not None
        torch.testing.assert_close(prior.scores, expected)
    assert decode_prior(evidence[0], Decoding()) is None
