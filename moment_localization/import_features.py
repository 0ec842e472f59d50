#!/usr/bin/env python
"""Turn a feature folder of GMMFormer or DCIML (feature.bin, …) into the HDF5 file read here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.import_features import main

if __name__ == "__main__":
    run_script(main)
