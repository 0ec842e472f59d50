"""CDN against its formulas, one segment, one sample and one cell at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lib.losses.diversity import gram_distance
from lib.models.cdn import CDN
from lib.models.layers.dynamic_conv import DynamicConv, DynamicConvStack
from lib.models.layers.proposal_map import ProposalGrid, neighbour_weights
from lib.models.layers.video import FrameAttention
from tests.properties import DIMS, make_batch


@pytest.mark.parametrize(
    ("num_clips", "keywords", "parameters"),
    [
        (16, {}, 248_930_594),
        (16, {"proposal_map": "conv"}, 257_065_250),
        (128, {"attention_steps": 1}, 247_880_994),
        (128, {"attention_steps": 1, "proposal_map": "conv"}, 269_397_282),
        (16, {"dynamic_layers": 0}, 63_297_794),
        (16, {"dynamic_layers": 8}, 434_563_394),
    ],
)
def test_it_has_the_published_number_of_parameters(num_clips, keywords, parameters) -> None:
    dims = dataclasses.replace(
        DIMS, video_dim=4096, word_dim=300, num_frames=256, num_clips=num_clips
    )
    with torch.device("meta"):  # a billion bytes of weights otherwise
        frames = FrameAttention(4096, 512, 256, num_clips, steps=keywords.get("attention_steps", 3))
    counted = sum(p.numel() for p in frames.parameters())
    assert counted == (4_460_289 if num_clips == 16 else 3_410_689)
    draws = ("uniform_", "kaiming_uniform_", "orthogonal_")
    with pytest.MonkeyPatch.context() as patch:
        for draw in draws:
            patch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
        model = CDN(dims, **keywords)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_frame_attention_equals_a_loop_over_segments() -> None:
    torch.manual_seed(0)
    B, N, F, C, D, A = 2, 3, 4, 5, 6, 3
    layer = FrameAttention(C, D, N * F, N, steps=A)
    video = torch.randn(B, N * F, C)
    clips, attention = layer(video)
    assert clips.shape == (B, N, D) and attention.shape == (B, N, F, A)
    assert torch.allclose(attention.sum(dim=2), torch.ones(B, N, A))
    for b in range(B):
        for k in range(N):
            x = layer.project(video[b, k * F : (k + 1) * F]).relu()
            p, found = torch.zeros(D), []
            for a in range(A):
                v = layer.topic[a](x.mean(dim=0))
                g = layer.guide(torch.cat([v, p])).relu()
                scores = torch.stack(
                    [layer.score((layer.query(g) + layer.key(x[f])).tanh())[0] for f in range(F)]
                )
                alpha = scores.softmax(dim=0)
                p = sum(alpha[f] * x[f] for f in range(F))
                found.append(p)
                assert torch.allclose(attention[b, k, :, a], alpha, atol=1e-6)
            expected = layer.merge(torch.cat(found)).relu()
            assert torch.allclose(clips[b, k], expected, atol=1e-5)


def test_dynamic_convolution_equals_a_loop_over_samples() -> None:
    torch.manual_seed(0)
    M, D, N, K = 3, 4, 5, 2
    layer = DynamicConv(D, kernel_size=3, base_kernels=K).eval()
    x, q = torch.randn(M, D, N, N), torch.randn(M, D)
    found = layer(x, q)
    for m in range(M):
        state = layer.of_sentence(q[m]) + layer.of_map(x[m].flatten(1).mean(dim=1))
        c = layer.mix(state.tanh()).softmax(dim=0)
        kernel = sum(c[k] * layer.weight[k] for k in range(K))
        bias = sum(c[k] * layer.bias[k] for k in range(K))
        expected = nn.functional.conv2d(x[m : m + 1], kernel, bias, padding=1)[0]
        assert torch.allclose(found[m], expected, atol=1e-5)


def test_a_mixture_of_one_kernel_is_an_ordinary_convolution(monkeypatch) -> None:
    torch.manual_seed(0)
    layer = DynamicConv(4, kernel_size=3, base_kernels=3).eval()
    x, q = torch.randn(2, 4, 5, 5), torch.randn(2, 4)
    only = torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3)
    monkeypatch.setattr(layer, "mixture", lambda square, sentence: only)
    expected = nn.functional.conv2d(x, layer.weight[1], layer.bias[1], padding=1)
    assert torch.allclose(layer(x, q), expected, atol=1e-6)


def test_the_mask_grows_by_half_a_kernel_in_every_layer_inside_the_square() -> None:
    grid = ProposalGrid(16)
    first, second = neighbour_weights(grid.mask, 5, [2, 2], grow=True)
    place = torch.arange(16)
    below = place[:, None] - place[None, :]  # how far a cell lies under the diagonal
    # A 5 x 5 window reaches two rows and two columns: four steps towards the diagonal.
    assert torch.equal(first[0, 0] > 0, below <= 4)
    assert torch.equal(second[0, 0] > 0, below <= 8)
    assert first[0, 0, 4, 9] == pytest.approx(1 / 25) and first[0, 0, 0, 15] == pytest.approx(1 / 9)


@pytest.mark.parametrize("training", [False, True])
def test_the_stack_equals_its_steps(training: bool) -> None:
    torch.manual_seed(0)
    M, D, N = 3, 4, 6
    grid = ProposalGrid(N)
    stack = DynamicConvStack(
        D, grid, kernel_size=3, num_layers=3, dynamic_layers=2, base_kernels=2
    ).train(training)
    for conv in stack.dynamic:
        conv.dropout.p = 0.0
    cells, q = torch.randn(M, len(grid), D), torch.randn(M, D)
    z, mask = torch.zeros(M, D, N, N), grid.mask.float()
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        z[:, :, i, j] = cells[:, p]
    states = {k: v.clone() for k, v in stack.state_dict().items()}
    for layer in range(3):
        h = stack.norms[layer](z)
        y = stack.dynamic[layer](h, q) if layer < 2 else stack.static[0](h)
        count = nn.functional.conv2d(mask[None, None], torch.ones(1, 1, 3, 3), padding=1)[0, 0]
        z = (y + h).relu() * torch.where(count > 0, 1 / count.clamp(min=1), 0.0)
        mask = (count > 0).float()
    expected = stack.norms[3](z)
    stack.load_state_dict(states)  # the running statistics as they were
    found = stack(cells, q)
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        assert torch.allclose(found[:, p], expected[:, :, i, j], atol=1e-5)


def test_attention_distance_has_its_closed_forms() -> None:
    """|AA' - λI_F|² = |A'A - λI_A|² + λ²(F - A); one uniform step gives (1/F - λ)² + λ²(F - 1)."""
    torch.manual_seed(0)
    F, A, spread = 16, 3, 0.3
    attention = torch.randn(2, 4, F, A).softmax(dim=2)
    found = gram_distance(attention, spread).item()
    other = gram_distance(attention.mT, spread).item() + spread**2 * (F - A)
    assert found == pytest.approx(other, rel=1e-5)
    uniform = torch.full((1, F, 1), 1 / F)
    assert gram_distance(uniform, spread).item() == pytest.approx(
        (1 / F - spread) ** 2 + spread**2 * (F - 1), rel=1e-6
    )


def test_the_whole_equals_its_blocks_for_one_sentence() -> None:
    """Fusion and read-out, with the sentence's last state both projected and not."""
    torch.manual_seed(0)
    model = CDN(
        DIMS, hidden_size=8, lstm_layers=2, attention_steps=2, kernel_size=3, conv_layers=2,
        dynamic_layers=1, base_kernels=2, proposal_map="conv",
    ).eval()  # fmt: skip
    batch = make_batch()
    found = model(batch).logits
    clips, _ = model.clips(batch.video)
    for m, b in enumerate(batch.owner.tolist()):
        count = int(batch.word_counts[m])
        states, _ = model.sentence.lstm(batch.flat(batch.words)[m : m + 1, :count])
        q = states[:, -1]
        cells = model.cell(model.proposals(clips[b : b + 1]))
        fused = nn.functional.normalize(model.sentence.project(q)[:, None] * cells, dim=-1)
        expected = model.score(model.context(fused, q))[0, :, 0]
        assert torch.allclose(found[m], expected, atol=1e-5)
