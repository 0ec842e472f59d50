"""Shared blocks against enumeration and slow versions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib.base.batch import DataDims, Layout
from lib.models.layers.fusion import fused_cells
from lib.models.layers.proposal_map import ConvMap, MaskedConvStack, ProposalGrid, valid_cells
from lib.models.layers.reconstructor import Reconstructor
from lib.models.layers.text import (
    MaskedWords,
    SentenceEncoder,
    TiedEmbeddings,
    all_words,
    draw_masked_words,
)
from lib.models.layers.transformer import ClassToken, transformer_encoder
from lib.models.layers.video import ClipEncoder

SIZES = DataDims(
    video_dim=5, word_dim=8, vocab_size=11, num_frames=12, num_clips=4, max_sentences=3
)


@pytest.mark.parametrize(("num_clips", "cells"), [(16, 136), (32, 428), (64, 1104), (128, 2548)])
def test_the_sparse_map_has_the_published_number_of_cells(num_clips: int, cells: int) -> None:
    assert len(ProposalGrid(num_clips)) == cells


@pytest.mark.parametrize("num_clips", [7, 16, 32, 64])
def test_the_sparse_map_is_2d_tan_s_schedule_of_offsets(num_clips: int) -> None:
    """16 offsets at stride 1, then 8 at each doubled stride, starts from 0."""
    expected = torch.zeros(num_clips, num_clips, dtype=torch.bool)
    offset, stride = -1, 1
    for group, count in enumerate([16, 8, 8, 8]):
        for _ in range(count):
            offset += stride
            for start in range(0, num_clips - offset, stride):
                expected[start, start + offset] = True
        offset, stride = offset, stride * 2
        del group
    assert torch.equal(valid_cells(num_clips), expected)


@pytest.mark.parametrize("density", ["sparse", "dense"])
@pytest.mark.parametrize("num_clips", [5, 16, 32])
def test_max_pool_equals_a_loop_over_cells(density: str, num_clips: int) -> None:
    grid = ProposalGrid(num_clips, density)
    clips = torch.randn(2, num_clips, 3)
    pooled = grid.max_pool(clips)
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        assert torch.equal(pooled[:, p], clips[:, i : j + 1].max(dim=1).values)


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("num_clips", [6, 16, 23, 64])
def test_a_cell_of_the_convolved_map_is_a_chain_over_its_own_clips(
    num_clips: int, project: bool
) -> None:
    """Changing one clip changes the cells that hold it, and no other."""
    torch.manual_seed(0)
    grid = ProposalGrid(num_clips)
    layer = ConvMap(4, grid, project=project).double()  # a long chain leaves little of a change
    clips = torch.randn(1, num_clips, 4, dtype=torch.float64)
    changed = clips.clone()
    changed[0, num_clips // 2] += 10
    moved = (layer(changed) - layer(clips)).abs().sum(dim=(0, 2)) > 1e-12
    start, end = grid.mask.nonzero().T
    assert torch.equal(moved, (start <= num_clips // 2) & (num_clips // 2 <= end))


def test_the_convolved_map_is_sparse() -> None:
    with pytest.raises(ValueError, match="sparse"):
        ConvMap(4, ProposalGrid(32, "dense"))


def test_the_frames_of_a_cell_lie_evenly_inside_it() -> None:
    grid = ProposalGrid(4, "dense")
    rows = grid.frames(32, 4)
    cells = grid.mask.nonzero().tolist()
    assert rows[cells.index([1, 1])].tolist() == [9, 11, 13, 15]
    assert rows[cells.index([0, 3])].tolist() == [4, 12, 20, 28]
    for p, (i, j) in enumerate(cells):
        assert rows[p].min() >= i * 8 and rows[p].max() < (j + 1) * 8


@pytest.mark.parametrize("padding", ["same", "first"])
@pytest.mark.parametrize("norm", ["count", "relative"])
@pytest.mark.parametrize("K", [1, 3])
def test_the_conv_stack_equals_2d_tan_s_formula(padding: str, norm: str, K: int) -> None:
    torch.manual_seed(0)
    N, L, D = 6, 3, 4
    grid = ProposalGrid(N, "dense")
    stack = MaskedConvStack(D, grid, kernel_size=K, num_layers=L, padding=padding, norm=norm)
    features = torch.randn(2, len(grid), D)
    found = stack(features)
    x, mask = torch.zeros(2, D, N, N), grid.mask.float()
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        x[:, :, i, j] = features[:, p]
    ones = torch.ones(1, 1, K, K)
    for layer in range(L):
        width = K // 2 if padding == "same" else (K // 2) * L if layer == 0 else 0
        count = nn.functional.conv2d(mask[None, None], ones, padding=width)[0, 0]
        kept = mask if padding == "same" else (count > 0.5).float()
        weight = kept / count.clamp(min=1) * (K * K if norm == "relative" else 1)
        conv = stack.convs[layer]
        x = nn.functional.conv2d(x, conv.weight, conv.bias, padding=width).relu() * weight
        mask = kept
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        assert torch.allclose(found[:, p], x[:, :, i, j], atol=1e-6)


def test_the_relative_norm_keeps_the_signal_that_the_count_norm_loses() -> None:
    torch.manual_seed(0)
    grid = ProposalGrid(16)
    features = torch.randn(1, len(grid), 32)
    spread = {
        norm: MaskedConvStack(32, grid, kernel_size=5, num_layers=4, norm=norm)(features).std()
        for norm in ("relative", "count")
    }
    assert spread["relative"] > 0.1 and spread["count"] < 1e-3


def test_clips_are_means_of_consecutive_frames() -> None:
    encoder = ClipEncoder(3, 5, 12, 4)
    video = torch.randn(2, 12, 3)
    frames = encoder.project(video).relu()
    assert torch.allclose(encoder(video)[:, 2], frames[:, 6:9].mean(dim=1), atol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_sentence_is_read_to_its_last_word_and_no_further(bidirectional: bool) -> None:
    torch.manual_seed(0)
    encoder = SentenceEncoder(4, 6, num_layers=2, bidirectional=bidirectional)
    words = torch.randn(3, 7, 4)
    counts = torch.tensor([7, 2, 4])
    states, sentences = encoder(words, counts)
    for m, count in enumerate(counts.tolist()):
        alone_states, alone = encoder(words[m : m + 1, :count], torch.tensor([count]))
        assert torch.allclose(sentences[m], alone[0], atol=1e-6)
        assert torch.allclose(states[m, :count], alone_states[0], atol=1e-6)
        assert (states[m, count:] == 0).all()


def test_a_third_of_the_words_is_masked_and_never_a_padded_one() -> None:
    counts = torch.tensor([1, 2, 3, 6, 9, 10])
    weights = torch.zeros(6, 10)
    for m, count in enumerate(counts.tolist()):
        weights[m, :count] = 1
    drawn = draw_masked_words(weights, counts)
    marked, place = drawn.mask(10), drawn.position(10)
    assert marked.sum(dim=1).tolist() == [1, 1, 1, 2, 3, 3]
    assert not (marked & (weights == 0)).any()
    assert sorted(place.tolist()) == marked.flatten().nonzero().squeeze(1).tolist()
    assert torch.equal(drawn.sentence, place // 10)


def test_content_words_are_masked_about_twice_as_often() -> None:
    """One of three words is drawn, with weights 2, 1, 1: chances 1/2, 1/4, 1/4."""
    weights = torch.tensor([2.0, 1.0, 1.0]).repeat(20_000, 1)
    g = torch.Generator().manual_seed(0)
    drawn = draw_masked_words(weights, torch.full((20_000,), 3), generator=g)
    share = drawn.mask(3).float().mean(dim=0)
    assert torch.allclose(share, torch.tensor([0.5, 0.25, 0.25]), atol=0.015)


def test_a_class_token_reads_the_real_items_only() -> None:
    """As Torch's encoder does that reads all of the padded sequence, gradients too."""
    torch.manual_seed(0)
    encoder = transformer_encoder(8, num_layers=2, heads=2, feedforward=16, dropout=0.0)
    token = ClassToken(4, 8)
    layout = Layout.of(torch.arange(4) < torch.tensor([[2], [4], [1]]))
    sentences = torch.randn(7, 8)

    def expected(items: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        tokens = torch.cat([token.token.expand(len(items), 1, -1), items], dim=1)
        return encoder(tokens + token.positions, src_key_padding_mask=padding)[:, 0]

    def gradient(found: torch.Tensor) -> list[torch.Tensor]:
        parameters = [*encoder.parameters(), *token.parameters()]
        return list(torch.autograd.grad(found.square().sum(), parameters))

    mask = nn.functional.pad(layout.sentence_mask, (1, 0), value=True)
    garbage = torch.where(layout.sentence_mask[..., None], layout.padded(sentences), 5.0)
    items = torch.randn(2, 4, 8)
    for found, wanted in (
        (token(encoder, sentences, layout), expected(garbage, ~mask)),
        (token(encoder, items), expected(items, None)),
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(gradient(found), gradient(wanted), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_paragraph_longer_than_any_seen_shares_the_last_position() -> None:
    encoder = transformer_encoder(8, num_layers=1, heads=2, feedforward=16, dropout=0.0).eval()
    assert ClassToken(3, 8)(encoder, torch.randn(2, 6, 8)).shape == (2, 8)


def test_a_tied_word_is_predicted_by_its_vector() -> None:
    """Centred over the real words, of length 1; ids that are no word have a bias only."""
    g = torch.Generator().manual_seed(0)
    vectors = torch.cat([torch.zeros(2, 5), torch.randn(7, 5, generator=g) + 3])
    model = TiedEmbeddings(4, vectors)
    with torch.no_grad():
        model.bias.copy_(torch.arange(9.0))
    states = torch.randn(6, 4, generator=g)
    mean = vectors[2:].mean(dim=0)
    for row, state in enumerate(states):
        wanted = model.project(state)
        for word in range(9):
            direction = (vectors[word] - mean) / (vectors[word] - mean).norm() * (word > 1)
            expected = wanted @ direction + model.bias[word]
            torch.testing.assert_close(model(states)[row, word], expected)
    assert set(dict(model.named_parameters())) == {"project.weight", "project.bias", "bias"}
    assert "vectors" in model.state_dict()


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_a_fused_cell_is_the_product_scaled(length: float) -> None:
    """Gradients too, and where a product is zero, or nearly."""
    torch.manual_seed(0)
    query, cells = torch.randn(5, 4).double(), torch.randn(3, 6, 4).double()
    cells[0, 1], cells[2, 5], owner = 0.0, 1e-14, torch.tensor([0, 0, 1, 2, 2])
    inputs = [query.requires_grad_(), cells.requires_grad_()]
    found = fused_cells(query, cells, owner, length)
    wanted = length * nn.functional.normalize(query[:, None] * cells[owner], dim=-1)
    assert torch.allclose(found, wanted, atol=1e-6)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((x * weight).sum(), inputs) for x in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        scale = theirs.abs().amax(dim=-1, keepdim=True).clamp(min=1)
        assert torch.allclose(ours / scale, theirs / scale, atol=1e-6)


def test_the_reconstructor_reads_the_frames_of_its_own_candidate() -> None:
    """Changing a frame outside a candidate changes nothing; inside, it does."""
    torch.manual_seed(0)
    model = Reconstructor(
        SIZES, 8, num_layers=1, heads=2, feedforward=16, dropout=0.0, num_frames=3
    ).eval()
    video, states = torch.randn(2, 12, 5), torch.randn(2, 4, 8)
    rows = torch.tensor([[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]])
    owner, counts = torch.tensor([1, 0]), torch.tensor([4, 4])
    masked = MaskedWords(torch.tensor([[1], [2]]), torch.arange(2), torch.zeros(2).long())
    before = model(model.frames(video), owner, rows, states, counts, masked)
    assert before.shape == (2, 2, 11)
    changed = video.clone()
    changed[1, 4] += 1  # video 1 belongs to sentence 0, whose second candidate has row 4
    difference = (
        (model(model.frames(changed), owner, rows, states, counts, masked) - before)
        .abs()
        .sum(dim=-1)
    )
    assert (difference > 1e-6).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("everything", [False, True])
def test_the_reconstructor_decodes_as_torch_s_decoder_does(depth: int, everything: bool) -> None:
    """What it leaves out (repeated sentences, padding, words not masked) nobody reads."""
    torch.manual_seed(0)
    M, Q, W, F = 3, 2, 6, 4
    model = Reconstructor(
        SIZES, 8, num_layers=depth, heads=2, feedforward=16, dropout=0.0, num_frames=F
    )
    video, owner = torch.randn(2, 12, 5), torch.tensor([1, 0, 0])
    rows, states = torch.randint(12, (M, Q, F)), torch.randn(M, W, 8)
    counts = torch.tensor([6, 1, 4])
    mask = torch.arange(W) < counts[:, None]
    masked = draw_masked_words(mask.float(), counts, ratio=0.5)
    if everything:
        masked = all_words(counts, states.device)
    memory = model.encoder(
        model.frames(video)[owner[:, None, None], rows].flatten(0, 1) + model.positions
    )
    decoded = model.decoder(
        states.repeat_interleave(Q, dim=0),
        memory,
        tgt_key_padding_mask=~mask.repeat_interleave(Q, dim=0),
    ).unflatten(0, (M, Q))
    expected = model.words(decoded.transpose(0, 1).flatten(1, 2)[:, masked.position(W)])
    found = model(model.frames(video), owner, rows, states, counts, masked)
    assert torch.allclose(found, expected, atol=1e-5)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(x.square().sum(), parameters) for x in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
