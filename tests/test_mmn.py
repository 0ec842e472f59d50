"""MMN against its formulas written out cell by cell, its sizes, and its text encoders."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

import lib.models.layers.text as text_module
from lib.base.errors import InputError
from lib.base.moments import iou
from lib.models.interface import ground
from lib.models.layers.text import PretrainedEncoder, read_pretrained
from lib.models.mmn import MMN
from tests.properties import DIMS, loss_of, make_batch, make_sample
from tests.tiny_text import tiny_pretrained

SMALL = {"hidden_size": 12, "joint_size": 6, "lstm_layers": 1, "kernel_size": 3, "conv_layers": 2}


class NoParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"hidden_size": 768})


def without_init(monkeypatch: pytest.MonkeyPatch) -> None:
    for draw in ("uniform_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize(
    ("video_dim", "num_clips", "kernel_size", "conv_layers", "proposal_map", "parameters"),
    [
        (500, 64, 9, 4, "pool", 85_855_232),
        (4096, 16, 5, 8, "pool", 55_196_672),
        (4096, 128, 5, 8, "pool", 55_196_672),
        (500, 64, 9, 4, "conv", 169_011_200 - 66_362_880),
        (4096, 16, 5, 8, "conv", 129_431_552 - 66_362_880),
        (4096, 128, 5, 8, "conv", 142_813_184 - 66_362_880),
    ],
)
def test_beside_distilbert_it_has_the_published_number_of_parameters(
    video_dim, num_clips, kernel_size, conv_layers, proposal_map, parameters, monkeypatch
) -> None:
    """DistilBERT itself has 66,362,880."""
    without_init(monkeypatch)
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: (NoParameters(), dict))
    dims = dataclasses.replace(DIMS, video_dim=video_dim, num_frames=256, num_clips=num_clips)
    model = MMN(
        dims,
        text_encoder="folder",
        kernel_size=kernel_size,
        conv_layers=conv_layers,
        proposal_map=proposal_map,
    )
    assert sum(p.numel() for p in model.parameters()) == parameters


def slow_losses(model: MMN, batch, *, k, m, tau, min_iou, max_iou) -> dict[str, float]:
    """Every loop of the definition, one number at a time."""
    out = model(batch)
    V, T = out.cells, out.sentences
    S, P = out.overlap_logits.shape
    b = batch.owner.tolist()
    truth = batch.flat(batch.moments)
    I = [iou(truth[s], out.spans * batch.duration[b[s]]) for s in range(S)]  # noqa: E741
    bce = video = sentence = 0.0
    for s in range(S):
        for q in range(P):
            t = min(max((I[s][q].item() - min_iou) / (max_iou - min_iou), 0), 1)
            p = out.overlap_logits[s, q].double().sigmoid().item()
            bce -= (t * math.log(p) + (1 - t) * math.log(1 - p)) / (S * P)
        for best in I[s].topk(k).indices.tolist():
            positive = ((V[b[s], best] @ T[s]).item() - m) / tau
            total = 0.0
            for u in range(S):
                if u == s:
                    total += math.exp(positive)
                elif b[u] != b[s] or iou(truth[s], truth[u]) < 0.5:
                    total += math.exp((V[b[s], best] @ T[u]).item() / tau)
            video -= (positive - math.log(total)) / (k * S)
            total, removed = math.exp(positive), 0
            for c in range(len(batch)):
                for q in range(P):
                    if c == b[s] and I[s][q] >= 0.5:
                        removed += 1
                    else:
                        total += math.exp((T[s] @ V[c, q]).item() / tau)
            sentence -= (positive - math.log(total)) / (k * S)
            assert removed == int((I[s] >= 0.5).sum())
    return {"overlap": bce, "proposal_to_sentence": video, "sentence_to_proposal": sentence}


@pytest.mark.parametrize("positives", [1, 3])
def test_the_losses_equal_their_definitions(positives: int) -> None:
    torch.manual_seed(0)
    model, batch = MMN(DIMS, **SMALL).eval(), make_batch()
    constants = {"margin": 0.3, "temperature": 0.1, "min_iou": 0.3, "max_iou": 0.7}
    terms = MMN.losses(positives=positives, **constants)
    expected = slow_losses(model, batch, k=positives, m=0.3, tau=0.1, min_iou=0.3, max_iou=0.7)
    out = model(batch)
    for name, term in terms.items():
        assert term(out, batch).item() == pytest.approx(expected[name], rel=2e-5), name


def test_a_removed_proposal_adds_nothing_where_the_release_adds_one() -> None:
    """Two cells, the second removed, cosines 0.8 and 0.6, m = 0.2, τ = 0.5:
    -log(e^1.2 / (e^1.2 + e^1.6)) here; the release has + e^0 in the denominator."""
    from lib.losses.matching import sentence_to_proposal

    sentence = torch.tensor([[1.0, 0.0]])
    cells = torch.tensor([[[0.8, 0.6], [0.6, 0.8]]])
    rival = torch.tensor([[[True, False]]])
    found = sentence_to_proposal(
        sentence, cells[:, :1], cells, rival, margin=0.2, temperature=0.5
    ).item()
    assert found == pytest.approx(math.log(1 + math.exp(0.4)), rel=1e-5)
    released = math.log((math.exp(1.2) + math.exp(1.6) + 1) / math.exp(1.2))
    assert released - found == pytest.approx(
        math.log1p(1 / (math.exp(1.2) + math.exp(1.6))), rel=1e-5
    )


def test_two_paragraphs_of_one_video_lend_each_other_no_negatives() -> None:
    """Sentences that overlap the moment are no rivals, whichever paragraph they stand in."""
    from lib.base.batch import collate

    first = make_sample(0, 2, video=7)
    twin = dataclasses.replace(first, paragraph_id="other")
    torch.manual_seed(0)
    model = MMN(DIMS, **SMALL).eval()
    alone, both = collate([first]), collate([first, twin])
    for name in ("proposal_to_sentence", "sentence_to_proposal"):
        term = MMN.losses()[name]
        assert term(model(both), both).item() == pytest.approx(
            term(model(alone), alone).item(), rel=1e-4
        )


def test_the_score_is_the_product_of_likeness_and_overlap() -> None:
    torch.manual_seed(0)
    model, batch = MMN(DIMS, score_power=0.3, **SMALL).eval(), make_batch()
    out, scores = model(batch), ground(model, batch).scores
    for s, b in enumerate(batch.owner.tolist()):
        cosine = out.cells[b] @ out.sentences[s]
        expected = (cosine / 2 + 0.5) ** 0.3 * out.overlap_logits[s].sigmoid()
        assert torch.allclose(scores[s], expected, atol=1e-6)


def test_a_paragraph_likes_a_video_as_its_sentences_do_on_average() -> None:
    torch.manual_seed(0)
    model, batch = MMN(DIMS, **SMALL).eval(), make_batch()
    found = model.similarity(model.encode_paragraphs(batch), model.encode_videos(batch.video))
    out = model(batch)
    for p in range(4):
        own = [s for s, b in enumerate(batch.owner.tolist()) if b == p]
        for v in range(4):
            best = [(out.cells[v] @ out.sentences[s]).max().item() for s in own]
            assert found[p, v].item() == pytest.approx(sum(best) / len(best), abs=1e-5)


def test_the_plan_freezes_the_text_encoder_and_lets_matching_fade() -> None:
    plan = MMN.plan(frozen_epochs=2, matching_epochs=3)
    stages = [plan.stages(epoch)[0] for epoch in range(4)]
    assert [bool(stage.frozen) for stage in stages] == [True, True, False, False]
    assert [s.factors["proposal_to_sentence"] for s in stages] == [1, 1, 1, 0.01]
    assert plan.rates == {"sentence.pretrained.": 0.1}


# Pretrained text.


def test_pretrained_features_are_means_over_the_real_tokens() -> None:
    torch.manual_seed(0)
    encoder, tokenizer = tiny_pretrained()
    reader = PretrainedEncoder(encoder, tokenizer).eval()
    found = reader(["w3 w4 w5 w6", "w7"])
    ids = torch.tensor([[1, 9, 2]])
    states = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(found[1], states[0].mean(dim=0), atol=1e-6)


def test_pretrained_text_needs_the_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())
    model = MMN(DIMS, text_encoder="folder", **{k: v for k, v in SMALL.items() if k[0] != "l"})
    batch = make_batch()
    assert torch.isfinite(loss_of(model, batch)["total"])
    with pytest.raises(ValueError, match="Batch.sentences"):
        model(dataclasses.replace(batch, sentences=()))


def test_a_folder_that_is_not_there_is_refused(tmp_path) -> None:
    pytest.importorskip("transformers", reason="reads a model with the package transformers")
    with pytest.raises(InputError, match="nowhere.*is no folder"):
        read_pretrained(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
    with pytest.raises(InputError, match="cannot be read"):
        read_pretrained(str(tmp_path))


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_a_transformer_is_read_from_its_folder(kind: str, tmp_path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "runs"])
    )
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16,
        )  # fmt: skip
        transformers.BertModel(config).save_pretrained(tmp_path)
        transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    else:
        config = transformers.DistilBertConfig(
            vocab_size=8, dim=8, n_layers=1, n_heads=2, hidden_dim=16
        )
        transformers.DistilBertModel(config).save_pretrained(tmp_path)
        transformers.DistilBertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    reader = PretrainedEncoder(*read_pretrained(str(tmp_path)))
    assert reader.width == 8 and reader.training
    together, alone = reader.eval()(["a man runs", "runs"]), reader(["runs"])
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert all(p.requires_grad for p in reader.parameters())
    reader(["a man"]).sum().backward()
    assert all(p.grad is not None for p in reader.parameters())
