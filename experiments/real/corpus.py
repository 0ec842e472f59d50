"""The real bench: Charades-STA's sentences on CLIP features of 1,052 of its test videos.

A corpus from outside the catalog, named in base.yaml. The data are not part of this project; see
docs/real.md for what they are and where they are expected.
"""

from lib.datasets.catalog import SPLITS, CorpusFacts

CORPUS = CorpusFacts(
    title="Charades-STA sentences on CLIP features",
    folder="charades_clip",
    features="clip_vit_b32_1fps.hdf5",
    feature_key="",
    feature_dim=512,
    annotations={split: (f"{split}_data.json",) for split in SPLITS},
    notes=(
        "Charades-STA's test videos split anew: no official protocol, and not comparable to one.",
        "Many sentences of a video are paraphrases of one moment, and many stand in other videos.",
    ),
)
