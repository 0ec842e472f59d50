"""A trained run that answers: loads, grounds, indexes and searches.

run = load("save/dense_activitynet/acnet_linear")  # or "https://host/run.zip#sha256=…"
index = run.index("my_videos/")
for hit in index.search("She opens the door. Then she sits down."):
    print(hit.video, hit.score, [(m.start, m.end, m.sentence) for m in hit.moments])
run.ground("video.mp4", ["She opens the door.", "Then she sits down."])
"""

from .answers import Answer, Hit, Moment, ScoreMap, Searchable, Source
from .index import VideoIndex
from .trained import TrainedRun, load, open_index

__all__ = [
    "Answer",
    "Hit",
    "Moment",
    "ScoreMap",
    "Searchable",
    "Source",
    "TrainedRun",
    "VideoIndex",
    "load",
    "open_index",
]
