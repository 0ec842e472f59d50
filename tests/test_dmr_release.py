"""The released network of DMR-JRG: its sizes, and its steps one after another from its own keys."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from lib.datasets.vocabulary import UNKNOWN
from lib.models.dmr_release import DMRRelease
from lib.models.interface import ground
from lib.models.layers.proposal_map import ProposalGrid, boundary_weights
from lib.tools.checkpoint_import import LAYOUTS, convert, read_foreign
from tests.properties import DIMS, make_batch

linear, conv1d = nn.functional.linear, nn.functional.conv1d


def shapes(
    D: int, N: int, C: int, E: int, *, part: int, slots: int, layers: int, feedforward: int
) -> dict[str, tuple[int, ...]]:
    """The released state dict at any size."""
    table: dict[str, tuple[int, ...]] = {}

    def both(name: str, *shape: int) -> None:
        table[f"{name}.weight"], table[f"{name}.bias"] = shape, shape[:1]

    both("frame_layer.vis_conv", D, C, 1)
    for layer in range(3):
        name = "fusion_layer.textual_encoder"
        table[f"{name}.weight_ih_l{layer}"] = (4 * D, D if layer else E)
        table[f"{name}.weight_hh_l{layer}"] = (4 * D, D)
        table |= {f"{name}.bias_{kind}_l{layer}": (4 * D,) for kind in ("ih", "hh")}
    both("fusion_layer.tex_linear", D, D)
    both("fusion_layer.vis_conv", D, D, 1, 1)
    both("map_layer.convs.0", D, 3 * part + D, 1, 1, 1)
    for head in (1, 2, 3):
        both(f"pred_layer{head}", 1, D, 1, 1)
    table["bmn_layer.sample_mask"] = (N, 16 * N * N)
    both("bmn_layer.x_1d_b.0", D // 2, D // 4, 3)
    both("bmn_layer.x_1d_b.2", D // 2, D // 8, 3)
    both("bmn_layer.x_1d_p.0", D // 2, D // 2, 15)
    both("bmn_layer.x_3d_p.0", D, D // 2, 16, 1, 1)
    for name in "ABV":
        both(f"nlblock.conv{name}", D, D, 1, 1, 1)
    for number, length in ((1, slots + 1), (2, slots + 1), (3, N + 1)):
        table[f"reg_token{number}.weight"] = (1, D)
        table[f"vl_pos_embed{number}.weight"] = (length, D)
    for layer in range(layers):
        name = f"vl_transformer1.encoder.layers.{layer}"
        table[f"{name}.self_attn.in_proj_weight"] = (3 * D, D)
        table[f"{name}.self_attn.in_proj_bias"] = (3 * D,)
        both(f"{name}.self_attn.out_proj", D, D)
        both(f"{name}.linear1", feedforward, D)
        both(f"{name}.linear2", D, feedforward)
        for norm in ("norm1", "norm2"):
            both(f"{name}.{norm}", D)
    both("conv1x1", D, 2 * D)
    table["mask_vec"] = (D,)
    return table | {f"logit_scale{suffix}": () for suffix in ("", "2", "3")}


def count(table: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in table.values())


def test_the_layout_has_the_published_size_and_every_weight_a_place(monkeypatch) -> None:
    released = shapes(512, 32, 500, 300, part=128, slots=8, layers=6, feedforward=2048)
    assert count(released) == 31_120_646 and len(released) == 125
    for draw in ("uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(DIMS, video_dim=500, word_dim=300, num_frames=256, num_clips=32)
    model = DMRRelease(dims)
    weights = {key: torch.empty(()).expand(shape) for key, shape in released.items()}
    assert convert(LAYOUTS["dmr-jrg"], weights, model).keys() == model.state_dict().keys()
    left = {k: s for k, s in released.items() if k.startswith(LAYOUTS["dmr-jrg"].left)}
    assert sum(p.numel() for p in model.parameters()) == count(released) - count(left)


def sample_mask(N: int) -> Tensor:
    """(N, 16, N, N) as BMN makes it, point by point, the fraction cut towards zero."""
    table = torch.zeros(N, 16, N, N)
    for s in range(N):
        for e in range(s, N):
            margin = (e + 1 - s + 1) * 0.5
            low, high = s - margin, e + 1 + margin
            for r in range(16):
                fraction, whole = math.modf(low + (high - low) / 15 * r)
                below, above = int(whole), math.ceil(low + (high - low) / 15 * r)
                if 0 <= below < N:
                    table[below, r, s, e] += 1 - fraction
                if 0 <= above < N:
                    table[above, r, s, e] += fraction
    return table


@pytest.mark.parametrize("num_clips", [5, 16])
def test_points_are_interpolated_as_in_boundary_matching(num_clips: int) -> None:
    grid = ProposalGrid(num_clips, "dense")
    found = boundary_weights(grid.spans * num_clips, num_clips, 16)
    expected = sample_mask(num_clips)[:, :, grid.mask]
    # A point on a clip, up to rounding, may be computed from either side of it.
    assert torch.allclose(found, expected, atol=1e-4)


def sinusoid(number: int, size: int) -> Tensor:
    row = torch.zeros(size)
    for j in range(0, size, 2):
        angle = number / 10_000 ** (j / size)
        row[j], row[j + 1] = math.sin(angle), math.cos(angle)
    return row


def encode(w: dict[str, Tensor], token: Tensor, items: Tensor, places: Tensor, layers: int):
    """Position 0 after the encoder; positions go to queries and keys of every layer."""
    x = torch.cat([token, items])
    D = x.shape[1]
    for layer in range(layers):
        name = f"vl_transformer1.encoder.layers.{layer}"
        wq, wk, wv = w[f"{name}.self_attn.in_proj_weight"].chunk(3)
        bq, bk, bv = w[f"{name}.self_attn.in_proj_bias"].chunk(3)
        placed = x + places[: len(x)]
        q, k, v = linear(placed, wq, bq), linear(placed, wk, bk), linear(x, wv, bv)
        heads = []
        for h in range(2):
            part = slice(h * D // 2, (h + 1) * D // 2)
            share = (q[:, part] @ k[:, part].T / math.sqrt(D / 2)).softmax(dim=1)
            heads.append(share @ v[:, part])
        key = f"{name}.self_attn.out_proj"
        x = x + linear(torch.cat(heads, dim=1), w[f"{key}.weight"], w[f"{key}.bias"])
        x = nn.functional.layer_norm(x, (D,), w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"])
        inner = linear(x, w[f"{name}.linear1.weight"], w[f"{name}.linear1.bias"]).relu()
        x = x + linear(inner, w[f"{name}.linear2.weight"], w[f"{name}.linear2.bias"])
        x = nn.functional.layer_norm(x, (D,), w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"])
    return nn.functional.normalize(x[0], dim=0)


def test_it_answers_as_the_release(tmp_path) -> None:
    D, N, part, layers = 8, 16, 4, 2
    table = shapes(
        D, N, DIMS.video_dim, DIMS.word_dim, part=part, slots=4, layers=layers, feedforward=12
    )
    g = torch.Generator().manual_seed(0)
    w = {key: torch.randn(shape, generator=g) * 0.4 for key, shape in table.items()}
    path = tmp_path / "iter000001.pkl"
    torch.save({f"module.{key}": value for key, value in w.items()}, path)
    dims = dataclasses.replace(DIMS, num_frames=32, num_clips=N)
    model = DMRRelease(
        dims, hidden_size=D, position_size=part, slots=4, encoder_layers=layers, heads=2,
        feedforward=12,
    ).eval()  # fmt: skip
    model.load_state_dict(convert(LAYOUTS["dmr-jrg"], read_foreign(path), model))

    batch = make_batch((3, 2))
    ids = batch.word_ids.clone()
    ids[0, 0, 1] = ids[1, 1, 0] = UNKNOWN  # outside the vocabulary: dropped
    batch = dataclasses.replace(batch, word_ids=ids)
    found = batch.padded(ground(model, batch).scores)
    tokens = model.encode_videos(batch.video)["token"], model.encode_paragraphs(batch)["token"]

    sampled, cells = sample_mask(N), model.grid.mask.nonzero().tolist()
    reader = nn.LSTM(DIMS.word_dim, D, 3, batch_first=True)
    name = "fusion_layer.textual_encoder."
    reader.load_state_dict({k.removeprefix(name): v for k, v in w.items() if k.startswith(name)})
    for b, count_ in enumerate((3, 2)):
        key = "frame_layer.vis_conv"
        x = conv1d(batch.video[b].T[None], w[f"{key}.weight"], w[f"{key}.bias"]).relu()
        clips = nn.functional.avg_pool1d(x, 2)[0]  # (D, N)
        places = w["vl_pos_embed3.weight"]
        video = encode(w, w["reg_token3.weight"], clips.T, places, layers)
        assert torch.allclose(tokens[0][b], video, atol=1e-4)

        y = clips[None]
        for key, groups, pad in (("x_1d_b.0", 4, 1), ("x_1d_b.2", 4, 1), ("x_1d_p.0", 1, 7)):
            key = f"bmn_layer.{key}"
            y = conv1d(y, w[f"{key}.weight"], w[f"{key}.bias"], padding=pad, groups=groups).relu()
        points = (y[0] @ sampled.flatten(1)).view(1, D // 2, 16, N, N)
        key = "bmn_layer.x_3d_p.0"
        square = nn.functional.conv3d(
            points, w[f"{key}.weight"], w[f"{key}.bias"], stride=(16, 1, 1)
        )
        square = square.relu()[0, :, 0]  # (D, N, N)
        key = "fusion_layer.vis_conv"
        square = nn.functional.conv2d(square[None], w[f"{key}.weight"], w[f"{key}.bias"])[0]

        slots = []
        for s in range(count_):
            mask = batch.word_mask[b, s] & (batch.word_ids[b, s] != UNKNOWN)
            words = batch.words[b, s][mask]
            states, _ = reader(torch.cat([words[:1], words])[None])
            key = "fusion_layer.tex_linear"
            t = linear(states[0, -1], w[f"{key}.weight"], w[f"{key}.bias"])
            slots.append(t)
            for p, (i, j) in enumerate(cells):
                fused = nn.functional.normalize(t * square[:, i, j], dim=0)
                position = [sinusoid(number + 1, part) for number in (s, i, j)]
                key = "map_layer.convs.0"
                feature = torch.cat([*position, fused])
                feature = linear(feature, w[f"{key}.weight"].flatten(1), w[f"{key}.bias"]).relu()
                logit = linear(feature, w["pred_layer1.weight"].flatten(1), w["pred_layer1.bias"])
                assert found[b, s, p].item() == pytest.approx(logit.sigmoid().item(), abs=1e-4)
        places = w["vl_pos_embed2.weight"]
        text = encode(w, w["reg_token2.weight"], torch.stack(slots), places, layers)
        assert torch.allclose(tokens[1][b], text, atol=1e-4)
