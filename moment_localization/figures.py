#!/usr/bin/env python
"""Figures for a paper: a paragraph's sentences on the video's time, and their score maps."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.figures import main

if __name__ == "__main__":
    run_script(main)
