"""Turn a feature folder of GMMFormer or DCIML (feature.bin, …) into the HDF5 file read here.

python import_features.py ../data/activitynet/FeatureData/i3d ../data/activitynet/i3d.hdf5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..tools.bigfile import convert_bigfile


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("out", type=Path, metavar="FILE", help="must not exist")
    args = parser.parse_args()
    videos, rows = convert_bigfile(args.folder, args.out)
    print(f"written: {args.out} ({videos:,} videos, {rows:,} rows)")
