"""The property suite, planted faults that it must notice, and what each model promises alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import lib.models.dmr_jrg as dmr_jrg_module
import lib.models.layers.text as text_module
from lib.models import MODELS
from lib.models.cdn import CDN
from lib.models.clip_align import ClipAlign
from lib.models.cnm import CNM
from lib.models.cpl import CPL
from lib.models.dciml import DCIML
from lib.models.dmr_jrg import DMRJRG
from lib.models.dmr_release import DMRRelease
from lib.models.interface import ground
from lib.models.jsg import JSG
from lib.models.layers.text import all_words
from lib.models.mmn import MMN
from lib.models.pps import PPS
from lib.models.prvg import PRVG
from lib.models.scn import SCN
from lib.models.tan2d import TAN2D
from tests import properties
from tests.properties import DIMS, PROPERTIES, loss_of, make_batch, make_sample
from tests.tiny_text import tiny_pretrained

SMALL = {"hidden_size": 16, "heads": 2, "feedforward": 24, "encoder_layers": 1}
VARIANTS = {
    "dmr_jrg": lambda cls=DMRJRG: cls(DIMS, reconstructor_layers=1, **SMALL),
    "dmr_jrg, mean retrieval, no TAN": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, retrieval="mean", grounded_retrieval=False, conv_layers=0,
        temporal="none", **SMALL
    ),
    "dmr_jrg, spread candidates, learned weights, all words": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, candidate_iou=0.5, learn_candidate_weights=True,
        reconstruct="all", density="dense", temporal="reverse", **SMALL
    ),
    "dmr_jrg, plus": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, words=True, alignment=True, retrieval="alignment",
        siblings="compete", own=0.3, sentence_position=True, decoder="order", candidate_iou=0.5,
        **SMALL,
    ),
    "dmr_jrg, alignment beside the class tokens": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, alignment=True, siblings="ignore", temporal="forward",
        tied_embeddings=True, **SMALL
    ),
    "dmr_jrg, told by vectors and nothing else": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, tied_embeddings=True, mask_ratio=1.0, told=2.0, decoder="order",
        siblings="compete", **SMALL
    ),
    "dmr_jrg, taught by what is told": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, mask_ratio=1.0, told=2.0, told_teaches=True, own=0.3,
        **SMALL
    ),
    "dmr_jrg, pretrained text": lambda: DMRJRG(
        DIMS, reconstructor_layers=1, text_encoder="folder", **SMALL
    ),
    "clip_align": lambda: ClipAlign(DIMS, hidden_size=16),
    "clip_align, in order": lambda: ClipAlign(
        DIMS, hidden_size=16, decoder="order", words=False, density="dense"
    ),
    "tan2d": lambda cls=TAN2D: cls(DIMS, hidden_size=16, lstm_layers=2, kernel_size=3),
    "tan2d, same padding": lambda cls=TAN2D: cls(
        DIMS, hidden_size=16, lstm_layers=1, kernel_size=3, conv_layers=2,
        padding="same", conv_norm="relative", words=True, sentence_position=True,
    ),
    "tan2d, convolved map, unmasked": lambda: TAN2D(
        DIMS, hidden_size=16, lstm_layers=1, kernel_size=3, conv_layers=2, proposal_map="conv",
        mask_fused=False, conv_norm="relative",
    ),
    "cdn": lambda: CDN(
        DIMS, hidden_size=16, lstm_layers=1, attention_steps=2, kernel_size=3, conv_layers=2,
        dynamic_layers=1, base_kernels=3,
    ),
    "cdn, convolved map, all dynamic": lambda: CDN(
        DIMS, hidden_size=16, lstm_layers=2, attention_steps=1, kernel_size=3, conv_layers=2,
        dynamic_layers=2, base_kernels=2, proposal_map="conv",
    ),
    "dciml": lambda: DCIML(
        DIMS, retrieval_size=16, grounding_size=8, heads=2, decoder_layers=1, proposals=3,
        sampled_frames=8, max_words=6,
    ),
    "dciml, told by vectors": lambda: DCIML(
        DIMS, retrieval_size=16, grounding_size=8, heads=2, decoder_layers=1, proposals=3,
        sampled_frames=8, max_words=6, tied_embeddings=True,
    ),
    "cnm": lambda: CNM(DIMS, hidden_size=16, heads=2, layers=1, sampled_frames=8),
    "cnm, no wider than half, with the end": lambda: CNM(
        DIMS, hidden_size=16, heads=2, layers=2, sampled_frames=5, sharpness=5.5, max_width=0.5,
        end_word=True,
    ),
    "cpl": lambda: CPL(DIMS, hidden_size=16, heads=2, layers=1, proposals=3, sampled_frames=8),
    "cpl, voting, with the end, told by vectors": lambda: CPL(
        DIMS, hidden_size=16, heads=2, layers=2, proposals=5, sampled_frames=6, vote="leader",
        end_word=True, tied_embeddings=True,
    ),
    "pps": lambda: PPS(DIMS, hidden_size=16, heads=2, layers=1, proposals=3, sampled_frames=8),
    "pps, by likelihood, with the end": lambda: PPS(
        DIMS, hidden_size=16, heads=2, layers=1, proposals=5, sampled_frames=6, deviations=9,
        negatives=1, shrink=0.0, vote="likelihood", end_word=True,
    ),
    "prvg": lambda: PRVG(
        DIMS, hidden_size=32, heads=2, feedforward=64, lstm_layers=1, dropout=0.0,
        drawn_sentences=0,
    ),
    "prvg, other sentences each time": lambda: PRVG(
        DIMS, hidden_size=16, heads=2, feedforward=24, lstm_layers=2, drawn_sentences=4
    ),
    "dmr_release": lambda: DMRRelease(
        DIMS, hidden_size=32, lstm_layers=1, position_size=8, slots=4, encoder_layers=1, heads=2,
        feedforward=24, dropout=0.0,
    ),
    "jsg": lambda: JSG(
        DIMS, hidden_size=16, heads=2, max_words=6, num_centers=5, num_widths=4, gaze_widths=3
    ),
    "jsg, for ranking videos": lambda: JSG(
        DIMS, hidden_size=16, heads=2, kernel=2, num_centers=4, num_widths=3, gaze_widths=2,
        decoder="separation", video_level=True,
    ),
    "scn": lambda: SCN(DIMS, hidden_size=16, heads=2, layers=1, candidate_frames=6),
    "scn, reranked, all words hidden": lambda: SCN(
        DIMS, hidden_size=16, heads=2, layers=2, candidate_frames=6, widths=(0.2, 0.5),
        num_candidates=5, candidate_iou=0.5, mask_ratio=1.0, reranked=5,
        tied_embeddings=True,
    ),
    "mmn": lambda cls=MMN: cls(
        DIMS, hidden_size=16, joint_size=8, lstm_layers=1, kernel_size=3, conv_layers=2
    ),
    "mmn, convolved map, pretrained text": lambda: MMN(
        DIMS, hidden_size=16, joint_size=8, kernel_size=3, conv_layers=1, proposal_map="conv",
        text_encoder="folder",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def a_tiny_pretrained_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmr_jrg_module, "draw_masked_words", properties.hide_first_words)


def test_every_model_is_in_the_property_suite() -> None:
    covered = {name.split(",")[0] for name in VARIANTS}
    assert covered == set(MODELS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name: str, variant: str) -> None:
    PROPERTIES[name](VARIANTS[variant])


# Faults seen in released code, each planted into a model that has none.


class ViewInsteadOfTranspose(DMRJRG):
    def _text_feature(self, batch, sentences):  # type: ignore[no-untyped-def]
        items = batch.padded(sentences)
        B, S, D = items.shape
        mixed = items.reshape(S, B, D).transpose(0, 1)
        state = self.text_token(self.text_encoder, mixed, batch.sentence_mask)
        return nn.functional.normalize(state, dim=-1)


class LayerCreatedInForward(DMRJRG):
    def _map(self, clips, sentences, batch, found):  # type: ignore[no-untyped-def]
        return super()._map(clips, nn.Linear(16, 16)(sentences), batch, found)


class ParameterNoLossReaches(DMRJRG):
    def __init__(self, *args, **keywords) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **keywords)
        self.unused = nn.Linear(4, 4)


class ModuleKeptInAList(DMRJRG):
    def __init__(self, *args, **keywords) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **keywords)
        self.kept = [nn.Linear(16, 16)]

    def _map(self, clips, sentences, batch, found):  # type: ignore[no-untyped-def]
        return super()._map(clips, self.kept[0](sentences), batch, found)


class MeanOverPaddedSentences(DMRJRG):
    def _text_feature(self, batch, sentences):  # type: ignore[no-untyped-def]
        mean = batch.padded(sentences).mean(dim=1, keepdim=True)
        return self.text_token(self.text_encoder, mean)


class LastStepInsteadOfLastWord(TAN2D):
    def forward(self, batch, terms=None):  # type: ignore[no-untyped-def]
        longest = torch.full_like(batch.word_counts, batch.words.shape[2])
        return super().forward(dataclasses.replace(batch, word_counts=longest), terms)


@pytest.mark.parametrize(
    ("cls", "noticed_by"),
    [
        (ViewInsteadOfTranspose, ["videos_independent", "padding_free"]),
        (LayerCreatedInForward, ["deterministic", "videos_independent", "padding_free"]),
        (ParameterNoLossReaches, ["every_parameter_learns"]),
        (ModuleKeptInAList, ["state_dict_is_everything"]),
        (MeanOverPaddedSentences, ["padding_free"]),
        (LastStepInsteadOfLastWord, ["padding_free"]),
    ],
)
def test_a_planted_fault_is_noticed(cls: type[nn.Module], noticed_by: list[str]) -> None:
    build = VARIANTS["tan2d, same padding" if issubclass(cls, TAN2D) else "dmr_jrg"]
    for name, check in PROPERTIES.items():
        if name in noticed_by:
            with pytest.raises(AssertionError):
                check(lambda: build(cls))
        elif name != "deterministic":  # a fault may fail others too, but not by accident this one
            continue
        else:
            check(lambda: build(cls))


# Promises of single models.


@pytest.mark.parametrize("name", [n for n, c in MODELS.items() if c.supervision == "weak"])
def test_a_weakly_supervised_model_never_reads_the_moments(name: str) -> None:
    torch.manual_seed(0)
    model, batch = VARIANTS[name](), make_batch()
    hidden = dataclasses.replace(batch, moments=torch.full_like(batch.moments, torch.nan))
    totals = []
    for each in (batch, hidden):
        torch.manual_seed(3)
        totals.append(loss_of(model, each)["total"])
    assert torch.isfinite(totals[1]) and torch.equal(*totals)


@pytest.mark.parametrize("name", MODELS)
def test_neither_side_reads_the_other(name: str) -> None:
    model, batch = VARIANTS[name]().eval(), make_batch()
    blind = dataclasses.replace(batch, video=torch.full_like(batch.video, torch.nan))
    for key, value in model.encode_paragraphs(batch).items():
        assert torch.equal(value, model.encode_paragraphs(blind)[key])


def test_two_paragraphs_of_one_video_are_no_negatives_of_each_other() -> None:
    from lib.base.batch import collate

    pair = collate([make_sample(0, 2, video=7), make_sample(1, 3, video=7)])
    torch.manual_seed(0)
    model = VARIANTS["dmr_jrg"]()
    values = loss_of(model, pair)
    assert values["retrieval_nce"] == 0 and values["retrieval_triplet"] == 0


def test_a_term_that_is_not_wanted_is_not_computed() -> None:
    model, batch = VARIANTS["dmr_jrg"](), make_batch()
    out = model(batch, terms=frozenset({"retrieval_nce"}))
    assert out.logits is None and out.nll is None and out.global_similarity is None
    out = model(batch, terms=frozenset({"temporal"}))
    assert out.logits is not None and out.nll is None and out.global_similarity is None


@pytest.mark.parametrize("name", [n for n, c in MODELS.items() if c.supervision == "full"])
def test_a_fully_supervised_model_overfits_four_videos(name: str) -> None:
    from lib.base.moments import iou

    torch.manual_seed(0)
    batch = make_batch()
    model = VARIANTS[f"{name}, same padding" if name == "tan2d" else name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        loss_of(model, batch)["total"].backward()
        optimizer.step()
    proposals = ground(model.eval(), batch)
    duration, truth = batch.duration[batch.owner, None], batch.flat(batch.moments)
    if proposals.spans.dim() == 3:  # regressed: any span could have been said
        best, ceiling = proposals.spans[:, 0], torch.ones(len(truth), 1)
    else:
        best = proposals.spans[proposals.scores.argmax(dim=1)]
        ceiling = iou(truth[:, None], proposals.spans * duration[..., None])
    ratio = iou(best * duration, truth).mean() / ceiling.max(dim=1).values.mean()
    assert ratio > 0.9, f"reached {ratio:.2f} of what the map allows"


@pytest.mark.parametrize(
    ("video_dim", "num_clips", "pool", "conv"),
    [
        (500, 64, 91_588_609, 108_644_353),
        (4096, 16, 60_925_953, 69_060_609),
        (4096, 128, 60_925_953, 82_442_241),
    ],
)
def test_two_tan_has_the_published_number_of_parameters(
    video_dim: int, num_clips: int, pool: int, conv: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("uniform_", "kaiming_uniform_"):  # a hundred million weights that nobody reads
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(
        DIMS, video_dim=video_dim, word_dim=300, num_frames=256, num_clips=num_clips
    )
    stack = {} if num_clips == 64 else {"kernel_size": 5, "conv_layers": 8}
    for proposal_map, parameters in (("pool", pool), ("conv", conv)):
        model = TAN2D(dims, proposal_map=proposal_map, **stack)
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_pretrained_text_gives_the_sentences_and_the_lstm_the_mask_words() -> None:
    torch.manual_seed(0)
    model, batch = VARIANTS["dmr_jrg, pretrained text"]().eval(), make_batch()
    terms = frozenset({"rank"})
    before, told = model.encode_paragraphs(batch)["sentences"], model(batch, terms=terms).nll
    with torch.no_grad():
        model.text.lstm.weight_ih_l0 *= 2
    assert torch.equal(model.encode_paragraphs(batch)["sentences"], before)
    assert not torch.allclose(model(batch, terms=terms).nll, told)
    other = dataclasses.replace(batch, sentences=batch.sentences[1:] + batch.sentences[:1])
    assert not torch.allclose(model.encode_paragraphs(other)["sentences"], before)
    slow = {n for n, _ in model.named_parameters() if n.startswith(tuple(model.plan().rates))}
    assert slow == {n for n, _ in model.named_parameters() if n.startswith("sentence.")}
    with pytest.raises(ValueError, match="text_encoder is not 'lstm'"):
        DMRJRG(DIMS, text_encoder="folder", words=True, **SMALL)


def test_telling_words_asks_for_their_vectors_and_for_nothing_else_to_tell_them() -> None:
    with pytest.raises(ValueError, match="tied_embeddings needs a vector"):
        DMRJRG(dataclasses.replace(DIMS, word_vectors=None), tied_embeddings=True, **SMALL)
    with pytest.raises(ValueError, match="told needs mask_ratio: 1"):
        DMRJRG(DIMS, told=1.0, decoder="order", **SMALL)
    for unread in ({"told": 1.0, "mask_ratio": 1.0}, {"told_teaches": True}):
        with pytest.raises(ValueError, match="told is read by decoder: order or told_teaches"):
            DMRJRG(DIMS, **unread, **SMALL)


@torch.no_grad()
@pytest.mark.parametrize("taught", [False, True])
def test_a_map_without_a_vote_is_not_made(taught: bool, monkeypatch) -> None:
    keywords = {"alignment": True, "mask_ratio": 1.0, "told": 0.3, "decoder": "order"}
    torch.manual_seed(0)
    model = DMRJRG(DIMS, told_teaches=taught, reconstructor_layers=1, **keywords, **SMALL).eval()
    batch = make_batch()
    model.map_weight = 1e-30  # heard, and too quiet to change anything
    heard = ground(model, batch).scores
    model.map_weight = 0.0
    monkeypatch.setattr(model, "_map", None)
    assert torch.equal(ground(model, batch).scores, heard)


@torch.no_grad()
def test_each_clip_tells_the_words_by_its_own_frames(monkeypatch) -> None:
    """As the reconstruction of the clip as a candidate does; other frames change the mean only."""
    drawn = lambda weights, counts, **_: all_words(counts, weights.device)  # noqa: E731
    monkeypatch.setattr(dmr_jrg_module, "draw_masked_words", drawn)
    model, batch = VARIANTS["dmr_jrg, told by vectors and nothing else"]().eval(), make_batch()
    N, F = DIMS.num_clips, DIMS.num_frames // DIMS.num_clips
    clips = torch.arange(N)
    spans = torch.stack([clips, clips + 1], dim=1) / N
    assert torch.equal(model.grid.spans[model.clip_cells], spans)

    def told(video: torch.Tensor) -> torch.Tensor:
        frames = model.reconstructor.frames(video)
        return model._told_by_clips(frames, batch.flat(batch.word_ids), batch.word_counts, batch)

    found = told(batch.video)
    nll = model._reconstruction(batch, model.clip_cells.expand(len(found), -1))
    torch.testing.assert_close(found, nll.mean(dim=1, keepdim=True) - nll)
    changed = batch.video.clone()
    changed[:, 2 * F : 3 * F] = changed[:, 2 * F : 3 * F].flip(-1)
    moved = told(changed) - found
    moved = moved - moved[:, :1]
    assert (moved[:, clips != 2].abs() < 1e-5).all() and (moved[:, 2].abs() > 1e-4).all()
