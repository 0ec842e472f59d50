#!/usr/bin/env python
"""Turn videos into the HDF5 file of feature rows read here, with the recipe they were made by."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.extract_features import main

if __name__ == "__main__":
    run_script(main)
