"""DCIML: the numbers it is known by, its blocks one probability at a time, and who teaches whom."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.losses import Criterion
from lib.losses.mutual import clips_of_span, containment, improvement, pull
from lib.losses.sentences import multi_positive_nce, sentence_triplet
from lib.models.dciml import (
    DCIML,
    MATCHING,
    RECONSTRUCTION,
    TO_GROUNDING,
    TO_RETRIEVAL,
    DCIMLOutput,
)
from lib.models.interface import ground
from lib.models.layers.gaussian import outside_windows, proposal_windows
from lib.models.layers.transformer import AttentionBlock, FiLM, WeighedDecoder, sinusoids
from lib.training.optimization import Optimization
from tests.properties import DIMS, make_batch

SMALL = {
    "retrieval_size": 16, "grounding_size": 8, "heads": 2, "decoder_layers": 1, "proposals": 3,
    "sampled_frames": 8, "max_words": 6,
}  # fmt: skip


def counted(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_it_has_the_published_number_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of 1024, token features of 1024, 9,000 words, as released."""
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(
        DIMS, video_dim=1024, word_dim=1024, vocab_size=9000, num_frames=128, num_clips=32
    )
    model = DCIML(dims)
    mutual = (model.retrieval.from_grounding, model.retrieval.guide_clips)
    mutual += (model.retrieval.guide_frame, model.grounding.from_retrieval, model.grounding.guide)
    assert counted(*mutual) == 2_299_520
    assert counted(model) == 21_255_484
    grounding = counted(model.grounding) - counted(*mutual[3:])
    assert grounding == 7_589_948
    assert counted(model.retrieval) - counted(*mutual[:3]) == 11_366_016


# Numbers printed by the released code.


def test_windows_have_the_released_values() -> None:
    half, width = torch.tensor(0.5), torch.tensor(0.4)
    found = proposal_windows(half, width, 32)[[8, 12, 14, 15, 16]].tolist()
    assert found == pytest.approx([3.9268e-7, 0.0423931, 0.590494, 1.0, 1.0], rel=1e-4)
    before, after = outside_windows(half, width, 32)
    assert before.argmax() == 5
    assert before[[4, 8]].tolist() == pytest.approx([0.868942, 0.0055292], rel=1e-4)
    assert torch.allclose(after, before.flip(0), atol=1e-5)


def test_positions_have_the_released_values() -> None:
    table = sinusoids(30, 256)
    assert table[0].abs().sum() == 0
    found = [round(table[1, j].item(), 6) for j in (0, 1, 127, 128, 255)]
    assert found == [0.841471, 0.801647, 0.0001, 0.540302, 1.0]


def test_the_nce_has_the_released_value() -> None:
    similarity = torch.tensor([[1.0, 0.2], [0.5, 0.1], [0.3, 0.9]])
    owner, videos = torch.tensor([0, 0, 1]), torch.eye(2, dtype=torch.bool)
    assert multi_positive_nce(similarity, owner, videos).item() == pytest.approx(0.908072, abs=1e-6)


def test_containment_and_span_have_the_released_values() -> None:
    spans = torch.tensor([[[0.2, 0.4], [0.5, 0.9]]])
    assert containment(spans, torch.tensor([15 / 32])).item() == pytest.approx(0.05, abs=1e-6)
    inside = clips_of_span(torch.tensor([[0.25, 0.5]]), 32)[0]
    assert inside.nonzero()[:, 0].tolist() == list(range(8, 16))


# Losses.


def test_nce_equals_a_loop_and_spares_other_paragraphs_of_a_video() -> None:
    torch.manual_seed(0)
    S, owner = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 1, 2])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    rows = columns = 0.0
    for n in range(6):
        videos = [b for b in range(3) if b == owner[n] or not same[owner[n], b]]
        rows += math.log(sum(math.exp(S[n, b]) for b in videos)) - S[n, owner[n]].item()
    for b in range(3):
        own = [n for n in range(6) if same[owner[n], b]]
        columns += math.log(sum(math.exp(S[n, b]) for n in range(6)))
        columns -= math.log(sum(math.exp(S[n, b]) for n in own))
    found = multi_positive_nce(S, owner, same).item()
    assert found == pytest.approx(rows / 6 + columns / 3, rel=1e-5)


def test_the_triplet_by_hand() -> None:
    """Margin .2. Sentences 0 and 1 are video 0's, 2 is video 1's. With two videos the negative
    video is the other one: hinges .2 + .2 - 1, .2 + .9 - .5 and .2 + .4 - .3. Videos have mean
    scores .75 and .3; against the hardest sentence .4 and .9; there is one for video 0."""
    S = torch.tensor([[1.0, 0.2], [0.5, 0.9], [0.4, 0.3]])
    owner, videos = torch.tensor([0, 0, 1]), torch.eye(2, dtype=torch.bool)
    found = sentence_triplet(S, owner, videos, margin=0.2, sentence_pool=1).item()
    assert found == pytest.approx((0.6 + 0.3) / 3 + (0 + 0.8) / 2, abs=1e-6)
    seen = {
        round(sentence_triplet(S, owner, videos, margin=0.2, generator=g).item(), 4)
        for g in (torch.Generator().manual_seed(seed) for seed in range(20))
    }
    assert seen == {0.7, 0.35}  # .2 + .9 - .3 or .2 + .2 - .3 for video 1


def test_a_batch_of_one_video_has_nothing_to_compare() -> None:
    S = torch.randn(3, 1, requires_grad=True)
    owner, one = torch.zeros(3, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    total = sentence_triplet(S, owner, one, margin=0.2) + multi_positive_nce(S, owner, one)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6) and torch.isfinite(S.grad).all()


def test_guidance_is_compared_with_what_does_not_move() -> None:
    guided, alone = torch.tensor([0.5], requires_grad=True), torch.tensor([0.4], requires_grad=True)
    improvement(guided, alone, margin=0.2).sum().backward()
    assert guided.grad.item() == -1 and alone.grad is None
    features, twin = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    value = pull(features, twin).mean()
    value.backward()
    unit = nn.functional.normalize
    assert value.item() == pytest.approx(
        nn.functional.mse_loss(unit(features, dim=1), unit(twin, dim=1)).item(), rel=1e-6
    )
    assert features.grad is not None and twin.grad is None


# Blocks.


def test_the_attention_block_equals_its_formula() -> None:
    torch.manual_seed(0)
    D, heads, L = 6, 2, 4
    block = AttentionBlock(D, heads=heads, dropout=0.3, copies=2).eval()
    x, mask = torch.randn(1, L, D), torch.tensor([[True, True, True, False]])
    expected = torch.zeros(L, D)
    for attention, norm in zip(block.attention, block.norm, strict=True):
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        q, k, v = (x[0] @ weight.T + bias).chunk(3, dim=1)
        found = torch.zeros(L, D)
        for h in range(heads):
            part = slice(h * D // heads, (h + 1) * D // heads)
            for i in range(L):
                scores = torch.stack([q[i, part] @ k[j, part] for j in range(3)])
                share = (scores / math.sqrt(D / heads)).softmax(dim=0)
                found[i, part] = sum(share[j] * v[j, part] for j in range(3))
        expected = expected + norm(x[0] + attention.out_proj(found))
    assert torch.allclose(block(x, mask)[0], expected / 2, atol=1e-5)


def weighed_attention(attention, x, read, allowed, weights):
    """Probabilities times (weight + 1e-10), brought back to sum 1, one head and row at a time."""
    D, heads = x.shape[1], attention.num_heads
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, bk, bv = attention.in_proj_bias.chunk(3)
    q, k, v = x @ wq.T + bq, read @ wk.T + bk, read @ wv.T + bv
    out = torch.zeros_like(x)
    for h in range(heads):
        part = slice(h * D // heads, (h + 1) * D // heads)
        for i in range(len(x)):
            scores = torch.stack([q[i, part] @ k[j, part] for j in range(len(read))])
            scores = (scores / math.sqrt(D / heads)).masked_fill(~allowed[i], -1e30)
            share = scores.softmax(dim=0) * (weights + 1e-10)
            share = share / share.sum()
            out[i, part] = sum(share[j] * v[j, part] for j in range(len(read)))
    return attention.out_proj(out)


def test_the_decoder_equals_its_formula() -> None:
    torch.manual_seed(0)
    D, L, K = 8, 5, 4
    decoder = WeighedDecoder(D, num_layers=2, heads=2, feedforward=12, dropout=0.2).eval()
    x, memory = torch.randn(2, L, D), torch.randn(2, K, D)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    memory_mask = torch.tensor([[True] * 4, [True, True, False, False]])
    weights, across = torch.rand(2, L), torch.rand(2, K)
    found = decoder(x, mask, weights, memory, memory_mask, across)
    for b in range(2):
        y = x[b]
        causal = torch.ones(L, L).tril().bool() & mask[b]
        for layer in decoder.layers:
            y = layer.norm1(y + weighed_attention(layer.self_attn, y, y, causal, weights[b]))
            allowed = memory_mask[b].expand(L, K)
            read = weighed_attention(layer.multihead_attn, y, memory[b], allowed, across[b])
            y = layer.norm2(y + read)
            y = layer.norm3(y + layer.linear2(layer.linear1(y).relu()))
        assert torch.allclose(found[b], y, atol=1e-4)


def test_film_scales_and_shifts() -> None:
    torch.manual_seed(0)
    film = FiLM(3, 4, inner=5)
    features, condition = torch.randn(2, 6, 4), torch.randn(2, 3)
    found = film(features, condition)
    for m in range(2):
        scale, shift = film.scale(condition[m]), film.shift(condition[m])
        assert torch.allclose(found[m], features[m] * scale + shift, atol=1e-6)


# The whole.


def test_a_proposal_s_likelihood_is_that_of_the_next_words_under_its_window() -> None:
    """One sentence at a time, one proposal at a time, without padding."""
    torch.manual_seed(0)
    model, batch = DCIML(DIMS, **SMALL).eval(), make_batch((2, 3))
    branch, both = model.grounding, model.grounding.decoders
    frames = branch.videos(batch.video)[batch.owner]
    found = branch(branch.read(batch), frames, others=True)
    words, ids = batch.flat(batch.words), batch.flat(batch.word_ids)
    unit = nn.functional.normalize
    for m, b in enumerate(batch.owner.tolist()):
        count = int(batch.word_counts[m])
        video = torch.cat([unit(batch.video[b], dim=1), branch.last_frame[None]])
        x = both.frame(video)[None]
        w = both.word(torch.cat([both.first_word[None], unit(words[m, :count], dim=1)]))[None]
        w = w + sinusoids(count + 1, 8)
        real = torch.ones(1, len(video), dtype=torch.bool)
        real[0, -1] = False
        h = both.frame_decoder(x, real, memory=both.word_decoder(w))[0, -1]
        c, width = branch.window(h).sigmoid().view(3, 2).unbind(dim=1)
        lows, highs = (c - width / 2).clamp(min=0), (c + width / 2).clamp(max=1)
        assert torch.allclose(found.spans[m], torch.stack([lows, highs], dim=1), atol=1e-5)
        rows = [math.floor(31 * j / 7 + 1e-9) for j in range(8)]
        windows = [*proposal_windows(c, width, 8)]
        best = int(found.best[m])
        left, right = outside_windows(c[best], width[best], 8)
        for q, window in enumerate([*windows, torch.ones(8), left, right]):
            seen = both.frame_decoder(x[:, rows], weights=window[None])
            decoded = both.word_decoder(w[:, :-1], memory=seen, memory_weights=window[None])
            logp = branch.vocabulary(decoded)[0].log_softmax(dim=1)
            target = ids[m, :count]
            nll = -0.9 * logp[torch.arange(count), target] - 0.1 * logp.mean(dim=1)
            expected = found.nll[m, q] if q < 3 else found.other_nll[m, q - 3]
            assert nll.mean().item() == pytest.approx(expected.item(), rel=1e-4)
        assert best == int(found.nll[m].argmin())


def test_the_rank_loss_has_three_margins() -> None:
    """Best .5 against .55 (whole video), .4 and .9: max(0, .05), max(0, .25), 0."""
    torch.manual_seed(0)
    model, batch = DCIML(DIMS, **SMALL).eval(), make_batch((1,))
    grounded = model(batch, terms=RECONSTRUCTION).grounded
    out = DCIMLOutput(
        grounded=dataclasses.replace(
            grounded,
            nll=torch.tensor([[0.7, 0.5, 0.6]]),
            other_nll=torch.tensor([[0.55, 0.4, 0.9]]),
        )
    )
    terms = DCIML.losses()
    assert terms["rank"](out, batch).item() == pytest.approx(0.05 + 0.25, abs=1e-6)
    assert terms["reconstruction"](out, batch).item() == pytest.approx((0.5 + 0.55) / 2)


def test_the_target_in_retrieval_is_the_own_video_of_a_sentence() -> None:
    """The release reads the video before it, and the best clip of the batch's runner-up."""
    torch.manual_seed(0)
    model, batch = DCIML(DIMS, **SMALL).eval(), make_batch((3, 2, 4))
    out = model(batch)
    query, clips = model._queries(batch), model.retrieval.videos(batch.video)[0]
    for m, b in enumerate([0, 0, 0, 1, 1, 2, 2, 2, 2]):
        cosine = nn.functional.cosine_similarity(query[m][None], clips[b], dim=1)
        assert torch.allclose(out.retrieved.own_clips[m], cosine, atol=1e-5)
        assert out.guided_retrieval.alone[m, 0].item() == pytest.approx(
            cosine.max().item(), abs=1e-5
        )


def test_the_span_is_a_target_that_moves_the_clips() -> None:
    """In the release its row is thresholded first, and nothing moves."""
    torch.manual_seed(0)
    model, batch = DCIML(DIMS, **SMALL), make_batch()
    out = model(batch, terms=frozenset({"span"}))
    DCIML.losses()["span"](out, batch).backward()
    assert model.retrieval.clip[2].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.grounding.parameters())


@pytest.mark.parametrize("epoch", [0, 15, 20])
def test_each_stage_moves_one_branch_and_mutual_terms_wait(epoch: int) -> None:
    torch.manual_seed(0)
    model, batch = DCIML(DIMS, **SMALL), make_batch()
    terms = DCIML.losses()
    optimization = Optimization(
        model, Criterion(terms, dict.fromkeys(terms, 1.0)), DCIML.plan(), optimizer="bert_adam",
        lr=1e-3,
    )  # fmt: skip
    optimization.set_epoch(epoch)
    triplet = {"hard_triplet"} if epoch == 20 else {"triplet"}
    mutual = epoch >= 15
    asked = [
        (MATCHING - {"triplet", "hard_triplet"}) | triplet | (TO_RETRIEVAL if mutual else set()),
        RECONSTRUCTION | (TO_GROUNDING if mutual else set()),
    ]
    guides = ("from_", "guide")
    for step, wanted, side in zip(
        optimization.steps, asked, ("retrieval.", "grounding."), strict=True
    ):
        assert step.criterion.active == wanted
        with optimization.learning(step):
            step.criterion(model(batch, terms=step.criterion.active), batch)["total"].backward()
        moved = {
            n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
        }
        expected = {
            n
            for n, _ in model.named_parameters()
            if n.startswith(side) and (mutual or not n.split(".")[1].startswith(guides))
        }
        assert moved == expected
        optimization.optimizer.zero_grad()


def test_words_are_masked_in_training_only() -> None:
    torch.manual_seed(0)
    model, batch = DCIML(DIMS, **SMALL), make_batch()
    with torch.no_grad():
        model.grounding.decoders.mask_word += 3
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.eval()
    before = ground(model, batch).scores
    assert torch.equal(before, ground(model, batch).scores)
    assert not torch.allclose(before, ground(model.train(), batch).scores)
