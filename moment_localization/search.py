#!/usr/bin/env python
"""Find the videos that a paragraph describes, and the moment of each of its sentences."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.search import main

if __name__ == "__main__":
    run_script(main)
