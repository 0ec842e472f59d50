#!/usr/bin/env python
"""Show an index in a browser: a paragraph in, ranked videos with a moment for each sentence out."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.serve import main

if __name__ == "__main__":
    run_script(main)
