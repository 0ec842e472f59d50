"""The releases of CNM, CPL, PPS and PRVG without a file of theirs: the names and shapes of their
weights, weights that follow from a name, and inputs that follow from an index.

What their code then printed is in ``test_cnm``, ``test_cpl``, ``test_pps`` and ``test_prvg``.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from lib.base.batch import Batch, DataDims, Sample, collate
from lib.models.layers.text import MaskedWords

Shapes = dict[str, tuple[int, ...]]
ACTIVITYNET, CHARADES = (500, 8001), (1024, 1112)  # width of a frame, words and the padding
MASKED = ([1], [1, 4, 8])  # columns of the words masked in the two sentences
HIDDEN = 256


def both(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def attention(name: str, width: int) -> Shapes:
    shapes = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return shapes | both(f"{name}.out_proj", width, width)


def transformer(name: str) -> Shapes:
    """The dual one: two stacks of three layers."""
    D, shapes = HIDDEN, {}
    for stack in (1, 2):
        for layer in range(3):
            at = f"{name}.decoder{stack}.decoder_layers.{layer}"
            for part in ("self_attn", "encoder_attn"):
                shapes |= attention(f"{at}.{part}", D) | both(f"{at}.{part}_layer_norm", D)
            shapes |= both(f"{at}.final_layer_norm", D)
            shapes |= both(f"{at}.fc1", 2 * D, D) | both(f"{at}.fc2", D, 2 * D)
    return shapes


def inputs(video_dim: int) -> Shapes:
    shapes: Shapes = {"mask_vec": (300,), "start_vec": (300,)}
    return shapes | both("frame_fc", HIDDEN, video_dim) | both("word_fc", HIDDEN, 300)


def cpl_shapes(video_dim: int, words: int) -> Shapes:
    shapes = {**inputs(video_dim), "pred_vec": (video_dim,), **transformer("trans")}
    return shapes | both("fc_comp", words, HIDDEN) | both("fc_gauss", 16, HIDDEN)


def cnm_shapes(video_dim: int, words: int) -> Shapes:
    shapes = inputs(video_dim) | transformer("trans")
    return shapes | both("fc_rec", words, HIDDEN) | both("fc_mask_gen", 2, HIDDEN)


def pps_shapes(video_dim: int, words: int, proposals: int, negatives: int) -> Shapes:
    D = HIDDEN
    shapes = {**inputs(video_dim), "pred_vec_v": (video_dim,), "pred_vec_q": (D,)}
    shapes |= {"attn_func.feat2att.weight": (D, D), "attn_func.to_alpha.weight": (1, D)}
    shapes |= both("attn_func.fc", D, D)
    for name in ("gauss", "l_gauss"):
        shapes |= transformer(f"trans_mask_generator.{name}")
    shapes |= transformer("trans_reconstructor")
    for k in range(proposals):
        shapes |= both(f"fc_mask.gauss.{k}", 2 * (k + 1), D)
    shapes |= both("fc_mask.l_gauss.gauss", 2 * proposals * negatives, D)
    return shapes | both("fc_comp", words, D)


def prvg_shapes(video_dim: int) -> Shapes:
    D, whole = 512, "parallel_regression"
    shapes: Shapes = {"query_embed.weight": (8, D)}
    for name in ("text_cre", "visual_cre", "lmd"):
        at = f"{whole}.{name}.layers.0"
        shapes |= attention(f"{at}.self_attn", D)
        shapes |= both(f"{at}.linear1", 4096, D) | both(f"{at}.linear2", D, 4096)
        shapes |= both(f"{at}.norm1", D) | both(f"{at}.norm2", D) | both(f"{whole}.{name}.norm", D)
    shapes |= attention(f"{whole}.lmd.layers.0.multihead_attn", D)
    shapes |= both(f"{whole}.lmd.layers.0.norm3", D) | both("visual_linear", D, video_dim)
    for layer, width in enumerate((D, D, 2)):
        shapes |= both(f"bbox_embed.layers.{layer}", width, D)
    for layer in range(3):
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * D, D if layer else 300)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * D, D)
        shapes |= {f"lstm.bias_{kind}_l{layer}": (4 * D,) for kind in ("ih", "hh")}
    return shapes


def size(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def weights_of(shapes: Shapes) -> dict[str, Tensor]:
    """A wave for each, whose phase is that of the name."""
    return {name: _wave(name, shape) for name, shape in shapes.items()}


def _wave(name: str, shape: tuple[int, ...]) -> Tensor:
    scale = 0.1
    if name.startswith(("parallel_regression", "bbox_embed", "lstm", "visual_linear", "query")):
        scale = 0.3 if name.startswith("bbox_embed.layers.2.") else 0.05
    if name in ("fc_gauss.weight", "fc_mask_gen.weight") or name.startswith("fc_mask."):
        scale = 0.15
    phase = sum(map(ord, name)) % 97
    j = torch.arange(math.prod(shape), dtype=torch.float64)
    value = scale * (1.7 * j + 0.001 * j**2 + phase).cos()
    if "norm" in name and name.endswith("weight"):
        value = 1 + value
    return value.to(torch.float32).view(shape)


DIMS = DataDims(
    video_dim=1024, word_dim=300, vocab_size=1112, num_frames=200, num_clips=50, max_sentences=1
)


def two_sentences() -> Batch:
    """One of five words and one of nine, each of a video of its own."""
    return collate([_sample(b, words) for b, words in enumerate((5, 9))])


def _sample(b: int, words: int) -> Sample:
    t = torch.arange(200, dtype=torch.float64)[:, None]
    c = torch.arange(1024, dtype=torch.float64)
    i = torch.arange(1, words + 1, dtype=torch.float64)[:, None]  # row 0 is the start vector's
    e = torch.arange(300, dtype=torch.float64)
    a = torch.arange(words)
    return Sample(
        video=(0.3 * (t + 1) + 0.017 * (c + 1) * (b + 1)).cos().float(),
        words=(0.5 * (i + 1) + 0.013 * (e + 1) * (b + 2)).sin().float(),
        word_ids=1 + (7 * a + 3 * b) % 1111,
        word_weights=torch.ones(words),
        word_counts=torch.tensor([words]),
        moments=torch.tensor([[0.0, 1.0]]),
        duration=1.0,
        video_index=b,
        video_id=f"v{b}",
        paragraph_id=f"p{b}",
    )


def mask_released_words(weights: Tensor, counts: Tensor, **_: object) -> MaskedWords:
    """What the release's generator drew: of whichever of the two sentences are there."""
    chosen = [MASKED[0] if count == 5 else MASKED[1] for count in counts.tolist()]
    longest = max(map(len, chosen))
    column = torch.tensor([(row + row[:1] * longest)[:longest] for row in chosen])
    places = [(m, k) for m, row in enumerate(chosen) for k in range(len(row))]
    return MaskedWords(column, *torch.tensor(places).T)


def dims_of(corpus: tuple[int, int]) -> DataDims:
    return dataclasses.replace(DIMS, video_dim=corpus[0], vocab_size=corpus[1])
