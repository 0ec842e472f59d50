"""Find the videos that a paragraph describes, and the moment of each of its sentences.

python search.py my_videos.index "She opens the door. Then she sits down."
python search.py my_videos.index --json < paragraph.txt
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from ..base import distributed
from ..base.command import POSITIVE
from ..base.errors import InputError
from ..inference import Answer, Hit, open_index


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument(
        "paragraph", nargs="?", metavar="TEXT", help="default: what standard input has"
    )
    parser.add_argument("--run", help="the run that answers, if not where it was")
    parser.add_argument("--top", type=POSITIVE, default=5, help="videos shown (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument(
        "--faiss",
        default="",
        metavar="INDEX",
        help="make the shortlist by this index of faiss, such as IVF1024,SQ8",
    )
    parser.add_argument("--gpus", default="", metavar="N", help="GPU to use; cpu or -1 for none")
    args = parser.parse_args()
    paragraph = args.paragraph
    if paragraph is None:
        if sys.stdin.isatty():
            raise InputError("there is no paragraph; expected it behind the index, in quotes")
        paragraph = sys.stdin.read()
    index = open_index(args.index, run=args.run, device=args.gpus, faiss=args.faiss)
    answer = index.search(paragraph, top=args.top)
    if not distributed.is_main():
        return
    if args.json:
        print(json.dumps(as_json(answer), ensure_ascii=False))
        return
    print("\n".join(lines(answer)))
    print(
        f"{answer.seconds * 1000:.0f} ms over {len(index):,} videos; answered by "
        f"{index.about['run']} ({index.about['model']}, epoch {index.about['epoch']})"
    )


def as_json(answer: Answer) -> dict[str, object]:
    return {field.name: _plain(getattr(answer, field.name)) for field in dataclasses.fields(answer)}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [dataclasses.asdict(x) if isinstance(x, Hit) else x for x in value]
    return value


def lines(answer: Answer) -> list[str]:
    """The answer as text."""
    shown = []
    if answer.unknown_words:
        shown.append(f"unknown words, left out: {', '.join(answer.unknown_words)}")
    for rank, hit in enumerate(answer, start=1):
        shown.append(f"{rank}. {hit.video} (score {hit.score:.3f}, {clock(hit.duration)} long)")
        shown += [
            f"   {clock(moment.start)} - {clock(moment.end)}  {moment.sentence}"
            for moment in hit.moments
        ]
    return shown


def clock(seconds: float) -> str:
    """1:02:03.4, or 2:03.4 under an hour."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    end = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{end}" if hours else f"{minutes}:{end}"
