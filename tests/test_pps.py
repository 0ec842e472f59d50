"""PPS: what its release prints, with its faults put back and without them; mixtures one Gaussian at
a time; and what each loss is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import lib.models.layers.masked_decoder as masked_module
from lib.base.batch import collate
from lib.models.interface import ground
from lib.models.layers.gaussian import proposal_windows
from lib.models.layers.votes import scores_of
from lib.models.pps import PPS, PPSOutput, mixtures
from lib.tools.checkpoint_import import LAYOUTS, convert
from tests import released
from tests.properties import DIMS, make_batch, make_sample

SMALL = {"hidden_size": 8, "heads": 2, "layers": 2, "proposals": 4, "sampled_frames": 7}


def built(**keywords: object) -> PPS:
    torch.manual_seed(0)
    return PPS(DIMS, **{**SMALL, **keywords}).eval()


@pytest.mark.parametrize(
    ("corpus", "proposals", "negatives", "parameters", "names"),
    [
        (released.ACTIVITYNET, 5, 2, 16_641_471, 350),
        (released.CHARADES, 7, 3, 15_018_002, 354),
    ],
)
def test_it_has_the_parameters_of_the_release_that_a_loss_reaches(
    corpus, proposals, negatives, parameters, names, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    shapes = released.pps_shapes(*corpus, proposals, negatives)
    assert (released.size(shapes), len(shapes)) == (parameters, names)
    third = released.transformer("trans_mask_generator.l_gauss")
    assert parameters - released.size(third) in (11_896_767, 10_273_298)
    never = [name for name in shapes if name.startswith(LAYOUTS["pps"].left)]
    assert len(never) == 146
    model = PPS(released.dims_of(corpus), proposals=proposals, negatives=negatives)
    left = released.size({name: shapes[name] for name in never})
    class_word = 300 - 256
    assert sum(p.numel() for p in model.parameters()) == parameters - left + class_word
    assert len(model.state_dict()) == names - 146


# What the release prints.


class AsReleased(PPS):
    """Widths of any sentence's Gaussians, taken in the order in which a batch has them."""

    def own_width(self, widths: Tensor) -> Tensor:
        B, first, found = len(widths), 0, []
        for k in range(1, len(self.window) + 1):
            found.append(widths[:, first : first + k].flatten()[:B])
            first += k
        return torch.stack(found, dim=1)


def scored(cls: type[PPS], *, numbers: int = 1) -> PPSOutput:
    """ActivityNet Captions' settings. As in the release the first sentence has its end token, the
    second, the longest of its batch, has not.

    Args:
        numbers: class words that a batch has.
    """
    weights, found = released.weights_of(released.pps_shapes(*released.CHARADES, 5, 2)), []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(masked_module, "draw_masked_words", released.mask_released_words)
        for end in (True, False):
            model = cls(released.DIMS, end_word=end).eval()
            model.load_state_dict(convert(LAYOUTS["pps"], weights, model))
            rows = weights["pred_vec_q"][:numbers, None, None].expand(-1, 1, 300)
            model.decoders.class_word = nn.Parameter(rows)
            found.append(model(released.two_sentences()))
    fields = (field.name for field in dataclasses.fields(PPSOutput))
    return PPSOutput(
        **{f: torch.stack([getattr(each, f)[m] for m, each in enumerate(found)]) for f in fields}
    )


FIRST = [[0, 0.53371], [0.41957, 0.94625], [0.39958, 0.65459], [0.46417, 0.63185]]
FIRST += [[0.33150, 0.61935]]
SECOND = [[0, 0.47013], [0.49576, 0.96130], [0.54542, 0.72477], [0.44849, 0.58931]]
SECOND += [[0.23636, 0.57178]]
IN_BATCH = [[0, 0.47013], [0.33350, 1], [0.26354, 1], [0.37092, 0.71448], [0.36985, 0.42780]]
NLL = [7.58185, 7.51069, 7.54367, 7.52377, 7.60868]


def test_a_sentence_alone_has_the_released_proposals_and_likelihoods() -> None:
    out = scored(PPS)
    assert torch.allclose(out.spans, torch.tensor([FIRST, SECOND]), atol=2e-5)
    second = [7.72900, 7.98801, 7.86074, 7.90987, 7.80316]
    assert torch.allclose(out.nll, torch.tensor([NLL, second]), atol=4e-5)


def test_with_the_faults_of_the_release_the_second_sentence_depends_on_the_first() -> None:
    out = scored(AsReleased, numbers=2)
    assert torch.allclose(out.spans, torch.tensor([FIRST, IN_BATCH]), atol=2e-5)
    second = [7.72900, 7.95786, 7.85838, 7.96337, 7.68446]
    assert torch.allclose(out.nll, torch.tensor([NLL, second]), atol=4e-5)
    batch = released.two_sentences()
    values = {name: term(out, batch).item() for name, term in PPS.losses().items()}
    assert values["reconstruction"] == pytest.approx(7.65208, abs=3e-5)
    weights = {"rank": 1, "pull": 0.2, "push": 0.1, "push_inside": 0.01}  # the paper's
    rest = sum(weight * values[name] for name, weight in weights.items())
    assert rest == pytest.approx(0.50644, abs=5e-5)


# Mixtures.


def test_the_gaussians_of_a_mixture_are_where_they_should_be() -> None:
    place, exists = mixtures(4)
    rows = [place[k][exists[k]].tolist() for k in range(4)]
    assert rows == [[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert not place[~exists].any()


def test_a_proposal_is_the_weighed_sum_of_its_gaussians() -> None:
    """Sentence by sentence, proposal by proposal and Gaussian by Gaussian."""
    model, batch = built(), make_batch((2, 3))
    out = model(batch)
    text, x = model.read_both(batch)
    h, sampled = model.proposing(text, x), model.sample(x)
    for m in range(len(h)):
        one = dataclasses.replace(
            text,
            **{f.name: getattr(text, f.name)[m : m + 1] for f in dataclasses.fields(text)},
        )
        count = int(text.counts[m])
        for k in range(1, 5):
            numbers = model.window[k - 1](h[m]).sigmoid().view(k, 2)
            width, windows, e = numbers[0, 1], [], []
            for center, _ in numbers:
                g = proposal_windows(center, width, 7, deviations=4)[None]
                seen = model.decoders.frame_decoder(sampled[m : m + 1], weights=g)
                states = model.decoders.word_decoder(
                    one.inputs[:, : count + 2],
                    torch.tensor([[True] * (count + 1) + [False]]),
                    memory=seen,
                    memory_weights=g,
                )
                hidden = (model.importance[0].weight @ states[0, -1]).tanh()
                e.append(model.importance[2].weight[0] @ hidden)
                windows.append(g[0])
            share = torch.stack(e).softmax(dim=0)
            mixed = sum(a * g for a, g in zip(share, windows, strict=True))
            left = sum(a * (c - width / 2) for a, c in zip(share, numbers[:, 0], strict=True))
            right = left + width
            span = torch.stack([left + 0.15 * width / 2, right - 0.15 * width / 2]).clamp(0, 1)
            assert torch.allclose(out.spans[m, k - 1], span, atol=1e-5)
            assert torch.allclose(out.windows[m, k - 1], mixed, atol=1e-5)
            nll, _ = model.reconstruct(one, sampled[m : m + 1], mixed[None, None])
            assert out.nll[m, k - 1].item() == pytest.approx(nll.item(), rel=1e-4)


def test_a_negative_is_a_sum_of_gaussians_of_height_one() -> None:
    model, batch = built(negatives=3, negative_deviations=9), make_batch((2, 3))
    text, x = model.read_both(batch)
    h = model.proposing(text, x)
    found = model.negative_windows(h)
    numbers = model.negative(h).sigmoid().view(5, 4, 3, 2)
    for m in range(5):
        for k in range(4):
            total = sum(proposal_windows(c, w, 7, deviations=9) for c, w in numbers[m, k])
            assert torch.allclose(found[m, k], total / total.max(), atol=1e-6)
    out = model(batch)
    best = out.nll.argmin(dim=1)
    own = torch.stack([found[m, k] for m, k in enumerate(best)])
    nll, _ = model.reconstruct(text, model.sample(x), own[:, None])
    assert torch.allclose(out.other_nll[:, 1], nll[:, 0], atol=1e-5)


def test_nobody_reads_the_class_word_but_the_importance() -> None:
    model, batch = built(), make_batch((2, 3))
    before = model(batch)
    with torch.no_grad():
        model.decoders.class_word += torch.randn(DIMS.word_dim)
    after = model(batch)
    assert torch.equal(before.gaussians, after.gaussians)
    assert torch.equal(before.windows[:, 0], after.windows[:, 0])  # a mixture of one
    assert not torch.isclose(before.windows[:, 1:], after.windows[:, 1:]).all()
    assert torch.equal(before.other_nll[:, 0], after.other_nll[:, 0])
    assert torch.allclose(before.nll[:, 0], after.nll[:, 0])


@pytest.mark.parametrize("end", [True, False])
def test_a_sentence_has_the_scores_it_has_alone(end: bool) -> None:
    model = built(end_word=end, vote="none")
    samples = [make_sample(index, size) for index, size in enumerate((2, 4, 1))]
    together = ground(model, collate(samples))
    alone = [ground(model, collate([sample])) for sample in samples]
    for name in ("spans", "scores"):
        parts = torch.cat([getattr(each, name) for each in alone])
        assert torch.allclose(getattr(together, name), parts, atol=1e-5)


def test_scores_are_votes() -> None:
    model, batch = built(), make_batch((2, 3))
    out = model(batch)
    for vote in ("plain", "likelihood"):
        model.vote = vote
        expected = scores_of(out.spans, out.nll, vote)
        assert torch.allclose(ground(model, batch).scores, expected, atol=1e-5)


def test_a_term_that_is_not_wanted_is_not_computed() -> None:
    model, batch = built(), make_batch()
    assert model(batch, frozenset({"push", "pull"})).other_nll is None
    assert model(batch, frozenset({"rank"})).other_nll is not None
