"""Show an index in a browser: a paragraph in, ranked videos with a moment for each sentence out.

python serve.py ../save/index

The page answers on this machine alone, until Ctrl+C. `--host 0.0.0.0` opens it to the network:
whoever reaches the port can then search the index and play its videos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..inference import open_index
from ..serving import listen, serve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument("--run", help="the run that answers, if not where it was")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer at (%(default)s)")
    parser.add_argument("--port", default="8000", help="0 takes any free one (%(default)s)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a further name by which browsers reach this machine; repeat for more",
    )
    parser.add_argument(
        "--faiss", default="", metavar="INDEX", help="make shortlists by this index of faiss"
    )
    parser.add_argument("--gpus", default="", metavar="N", help="GPU to use; cpu or -1 for none")
    args = parser.parse_args()
    with listen(args.host, args.port) as socket:  # before the index, which takes longer
        serve(
            open_index(args.index, run=args.run, device=args.gpus, faiss=args.faiss),
            socket,
            names=args.name,
        )
