"""CNM: what its release prints, from weights under its own names; and what each of its two steps
trains."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import lib.models.layers.masked_decoder as masked_module
from lib.losses import Criterion
from lib.models.cnm import CNM, CNMOutput
from lib.models.interface import ground
from lib.models.layers.gaussian import unscaled_windows
from lib.tools.checkpoint_import import LAYOUTS, convert
from lib.training.optimization import Optimization
from tests import released
from tests.properties import DIMS, make_batch

SMALL = {"hidden_size": 8, "heads": 2, "layers": 2, "sampled_frames": 7}


def built(**keywords: object) -> CNM:
    torch.manual_seed(0)
    return CNM(DIMS, **{**SMALL, **keywords}).eval()


@pytest.mark.parametrize(
    ("corpus", "parameters"),
    [
        (released.ACTIVITYNET, 7_007_387),
        ((512, 8001), 7_010_459),  # CLIP features
        (released.CHARADES, 5_371_058),
    ],
)
def test_it_has_the_parameters_of_the_release(
    corpus: tuple[int, int], parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    shapes = released.cnm_shapes(*corpus)
    model = CNM(released.dims_of(corpus))
    assert released.size(shapes) == parameters == sum(p.numel() for p in model.parameters())
    assert len(shapes) == 118 == len(model.state_dict())
    assert sum(p.numel() for p in model.window.parameters()) == 514


def test_windows_have_the_released_values() -> None:
    def window(center: float, width: float, alpha: float) -> torch.Tensor:
        return unscaled_windows(torch.tensor(center), torch.tensor(width), 50, sharpness=alpha)

    assert window(0.5, 0.4, 5)[[10, 15, 20, 24]].tolist() == pytest.approx(
        [0.0647974, 0.30893, 0.76831, 0.996751], rel=1e-5
    )
    assert window(0.3, 0.05, 5)[[10, 15]].tolist() == pytest.approx([0.0100501, 0.981432], rel=1e-5)
    assert window(0.5, 0.4, 5.5)[[10, 15, 20, 24]].tolist() == pytest.approx(
        [0.0492848, 0.274692, 0.748325, 0.996427], rel=1e-5
    )


# What the release prints.


@pytest.fixture(scope="module")
def answers() -> CNMOutput:
    """Charades-STA's settings. As in the release the first sentence has its end token, the second,
    the longest of its batch, has not."""
    weights = released.weights_of(released.cnm_shapes(*released.CHARADES))
    found = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(masked_module, "draw_masked_words", released.mask_released_words)
        for end in (True, False):
            model = CNM(released.DIMS, sharpness=5.5, max_width=0.45, end_word=end).eval()
            model.load_state_dict(convert(LAYOUTS["cnm"], weights, model))
            found.append(model(released.two_sentences()))
    fields = (field.name for field in dataclasses.fields(CNMOutput))
    return CNMOutput(
        **{f: torch.stack([getattr(each, f)[m] for m, each in enumerate(found)]) for f in fields}
    )


def test_proposals_are_the_released_ones(answers: CNMOutput) -> None:
    centers, widths = [0.35291, 0.13854], [0.16738, 0.28897]
    wanted = [[max(c - w / 2, 0), c + w / 2] for c, w in zip(centers, widths, strict=True)]
    assert torch.allclose(answers.spans[:, 0], torch.tensor(wanted), atol=2e-5)


def test_likelihoods_and_losses_are_the_released_ones(answers: CNMOutput) -> None:
    assert answers.nll[:, 0].tolist() == pytest.approx([7.87422, 7.86434], abs=3e-5)
    whole, outside = answers.other_nll.T.tolist()
    assert whole == pytest.approx([7.69605, 7.93038], abs=3e-5)
    assert outside == pytest.approx([7.68199, 7.94027], abs=3e-5)
    batch, terms = released.two_sentences(), CNM.losses()
    assert terms["reconstruction"](answers, batch).item() == pytest.approx(15.68249, abs=3e-5)
    assert terms["rank"](answers, batch).item() == pytest.approx(0.36421, abs=5e-5)


# Two steps.


def gradients(model: CNM, optimization: Optimization, number: int) -> dict[str, torch.Tensor]:
    step, batch = optimization.steps[number], make_batch()
    torch.manual_seed(number)
    with optimization.learning(step):
        step.criterion(model(batch, step.criterion.active), batch)["total"].backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_step_trains_its_own_part() -> None:
    torch.manual_seed(0)
    model = CNM(DIMS, heads=2, layers=2, sampled_frames=7)
    criterion = Criterion(CNM.losses(), {"reconstruction": 1.0, "rank": 1.0})
    optimization = Optimization(model, criterion, CNM.plan())
    assert [step.criterion.active for step in optimization.steps] == [{"reconstruction"}, {"rank"}]
    first, second = (gradients(model, optimization, number) for number in (0, 1))
    assert sum(gradient.numel() for gradient in second.values()) == 514
    assert set(second) == {"window.weight", "window.bias"}
    assert set(first) == {n for n, _ in model.named_parameters()} - set(second)


def test_reconstruction_reaches_what_proposes_through_the_window(monkeypatch) -> None:
    """The frames' attention to the words serves the proposal alone."""
    name = "decoders.frame_decoder.layers.0.multihead_attn.in_proj_weight"
    torch.manual_seed(0)
    model = CNM(DIMS, heads=2, layers=1, sampled_frames=7)
    criterion = Criterion(CNM.losses(), {"reconstruction": 1.0, "rank": 1.0})
    optimization = Optimization(model, criterion, CNM.plan())
    assert name in gradients(model, optimization, 0)
    proposed = CNM.proposed

    def detached(self, text, x):
        found = proposed(self, text, x)
        return dataclasses.replace(found, windows=found.windows.detach())

    monkeypatch.setattr(CNM, "proposed", detached)
    assert name not in gradients(model, optimization, 0)


def test_a_step_without_its_term_is_left_out() -> None:
    model = built()
    criterion = Criterion(CNM.losses(), {"reconstruction": 1.0})
    assert len(Optimization(model, criterion, CNM.plan()).steps) == 1


# Grounding.


def test_grounding_reconstructs_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = built(), make_batch((2, 3))
    spans = model(batch).spans
    monkeypatch.setattr(type(model.decoders), "nll", None)
    found = ground(model, batch)
    assert torch.equal(found.spans, spans) and found.spans.shape == (5, 1, 2)
    assert torch.equal(found.scores, torch.ones(5, 1))


def test_no_proposal_is_wider_than_it_may_be() -> None:
    model, batch = built(max_width=0.2), make_batch()
    with torch.no_grad():
        model.window.bias.fill_(9.0)
        model.window.weight.zero_()
        model.window.bias[0] = 0.0
    assert torch.allclose(ground(model, batch).spans.diff(dim=2), torch.tensor(0.2), atol=1e-3)


def test_the_last_frame_proposes_and_the_frames_outside_are_what_is_left() -> None:
    model, batch = built(), make_batch((2, 3))
    text, x = model.read_both(batch)
    window = model.proposed(text, x).windows
    out, sampled = model(batch), model.sample(x)
    for number, weights in enumerate((torch.ones_like(window), 1 - window)):
        nll, _ = model.reconstruct(text, sampled, weights)
        assert torch.allclose(out.other_nll[:, number], nll[:, 0], atol=1e-6)
    h = model.decoders.frame_decoder(x, memory=text.memory, memory_mask=text.mask)[:, -1]
    center, width = model.window(h).sigmoid().T
    wanted = torch.stack([center - width / 2, center + width / 2], dim=1).clamp(0, 1)
    assert torch.allclose(out.spans[:, 0], wanted, atol=1e-6)
