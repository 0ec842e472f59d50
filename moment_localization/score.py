#!/usr/bin/env python
"""Score a predictions file from any program: NumPy is all that this needs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.score import main

if __name__ == "__main__":
    run_script(main)
