"""The linear alignment: its words, its negatives, its clips."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.datasets.vocabulary import Vocabulary
from lib.datasets.word_vectors import WordVectors
from lib.losses.similarity import sentence_nce, within_paragraph_nce
from lib.models.layers.bag import BagOfWords
from lib.models.linear_align import LinearAlign
from tests.properties import DIMS, make_batch

WORDS = ("a", "person", "opens", "opening", "closed", "door", "the")


def vectors() -> WordVectors:
    matrix = torch.randn(len(WORDS), 4, generator=torch.Generator().manual_seed(0))
    return WordVectors(WORDS, matrix)


def test_words_of_one_stem_share_an_id_and_keep_their_vectors() -> None:
    pytest.importorskip("snowballstemmer")
    sentences = ["a person opens the door", "opening a door", "the closed door"]
    plain = Vocabulary(sentences, vectors())
    stems = Vocabulary(sentences, vectors(), stems=True)
    assert len(stems) == len(plain) - 1
    one, other = stems.encode(["opens", "opening"]).ids.tolist()
    assert one == other > 1
    assert stems.encode(["opened"]).ids.tolist() == [one]  # never seen, and known by its stem
    rows = stems.encode(["opens", "opening"]).rows
    assert rows[0] != rows[1]


def test_rare_words_weigh_more() -> None:
    sentences = ["a door", "a person", "a person opens"]
    vocabulary = Vocabulary(sentences, vectors())
    idf = vocabulary.inverse_document_frequency()
    by_word = dict(zip(("padding", "unknown", *vocabulary.words), idf.tolist(), strict=True))
    assert by_word["padding"] == 0 and by_word["a"] == 0
    assert by_word["person"] == pytest.approx(math.log(4 / 3))
    assert by_word["door"] == pytest.approx(math.log(4 / 2))
    assert by_word["unknown"] == pytest.approx(math.log(4))


def test_a_bag_is_its_words_in_any_order() -> None:
    batch, bag = make_batch((2, 1)), BagOfWords(DIMS)
    ids, mask = batch.flat(batch.word_ids), batch.flat(batch.word_mask)
    features = bag(batch)
    for m in range(len(ids)):
        words = ids[m][mask[m]]
        weights = bag.idf[words]
        mean = (weights[:, None] * batch.flat(batch.words)[m][mask[m]]).sum(dim=0)
        counts = torch.zeros(len(bag.idf))
        for word, weight in zip(words.tolist(), weights.tolist(), strict=True):
            counts[word] += weight if word > 1 else 0
        expected = torch.cat([x / x.norm() for x in (mean, counts)])
        torch.testing.assert_close(features[m], expected)
    with pytest.raises(ValueError, match="inverse document frequency"):
        BagOfWords(dataclasses.replace(DIMS, word_idf=None))


def test_a_video_with_a_sentence_like_this_one_is_no_negative() -> None:
    g = torch.Generator().manual_seed(1)
    similarity, scale = torch.randn(3, 3, generator=g), torch.tensor(2.0)
    owner, none = torch.arange(3), torch.zeros(3, 3, dtype=torch.bool)
    same = torch.eye(3, dtype=torch.bool)
    assert sentence_nce(similarity, scale, owner, same, none) == sentence_nce(
        similarity, scale, owner, same
    )
    ambiguous = none.clone()
    ambiguous[0, 1] = True
    changed = similarity.clone()
    changed[0, 1] += 5  # of a pair that does not count
    first, second = (sentence_nce(x, scale, owner, same, ambiguous) for x in (similarity, changed))
    torch.testing.assert_close(first, second)
    assert first < sentence_nce(changed, scale, owner, same)


def test_paraphrases_are_no_negatives_within_a_paragraph() -> None:
    g = torch.Generator().manual_seed(2)
    similarity, scale = torch.randn(1, 3, 3, generator=g), torch.tensor(2.0)
    mask = torch.ones(1, 3, dtype=torch.bool)
    alike = torch.eye(3, dtype=torch.bool)[None].clone()
    alike[0, 0, 1] = alike[0, 1, 0] = True
    changed = similarity.clone()
    changed[0, 0, 1] += 3
    changed[0, 1, 0] += 3
    first, second = (within_paragraph_nce(x, scale, mask, alike) for x in (similarity, changed))
    torch.testing.assert_close(first, second)
    assert within_paragraph_nce(changed, scale, mask) > second


def test_sentences_alike_count_once_in_a_paragraph() -> None:
    torch.manual_seed(0)
    model = LinearAlign(DIMS, hidden_size=16).eval()
    videos = {"clips": nn.functional.normalize(torch.randn(2, DIMS.num_clips, 16), dim=-1)}
    sentences = nn.functional.normalize(torch.randn(1, 3, 16), dim=-1)
    sentences[0, 1] = sentences[0, 0]
    text = torch.eye(3)[None].clone()
    text[0, 1] = text[0, 0]
    mask = torch.ones(1, 3, dtype=torch.bool)
    thrice = {"sentences": sentences, "text": text, "mask": mask}
    twice = {name: value[:, 1:] for name, value in thrice.items()}
    torch.testing.assert_close(model.similarity(thrice, videos), model.similarity(twice, videos))


def test_smoothing_is_the_mean_of_neighbours_with_the_ends_repeated() -> None:
    torch.manual_seed(0)
    model = LinearAlign(DIMS, hidden_size=16, smoothing=1).eval()
    video = torch.randn(1, DIMS.num_frames, DIMS.video_dim)
    clips = video.unflatten(1, (DIMS.num_clips, -1)).mean(dim=2)[0]
    padded = torch.cat([clips[:1], clips, clips[-1:]])
    smooth = torch.stack([padded[n : n + 3].mean(dim=0) for n in range(DIMS.num_clips)])
    expected = nn.functional.normalize(model.clip(smooth), dim=-1)
    torch.testing.assert_close(model.encode_videos(video)["clips"][0], expected)
