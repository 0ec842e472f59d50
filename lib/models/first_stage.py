"""The first stage of a search in two stages: a few vectors for a video, which shortlist it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..index import places_of
from .interface import Encoded, Model, require

PLACES = 8  # mean directions of a video's parts, where a model has no token


def place_vectors(vectors: Float[Tensor, "V *n D"], places: int = PLACES) -> Float[Tensor, "V P D"]:
    """Mean directions of a video's parts, cut where it changes; one vector of a video stays one."""
    if vectors.dim() == 2:
        return nn.functional.normalize(vectors.float(), dim=-1)[:, None]
    found = places_of(vectors.detach().float().cpu().numpy(), places)
    return torch.from_numpy(found).to(vectors.device)


def first_stage_similarity(
    model: Model, paragraphs: Encoded, videos: Encoded
) -> Float[Tensor, "Q G"]:
    """Cosines of the vectors that ``Model.embeddings`` names, each sentence with the place that
    fits it best, mean over sentences."""
    names = require(model.embeddings)
    places = nn.functional.normalize(place_vectors(videos[names[0]]), dim=-1)
    text = nn.functional.normalize(paragraphs[names[1]].float(), dim=-1)
    if text.dim() == 2:
        return torch.einsum("qd,gpd->qgp", text, places).amax(dim=2)
    mask: Bool[Tensor, "Q S"] = paragraphs["mask"]
    cosines = torch.stack([text @ place.T for place in places.unbind(dim=1)]).amax(dim=0)
    return (cosines * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
