#!/usr/bin/env python
"""Make videos searchable by a trained run: extract their features, encode them, keep them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.index import main

if __name__ == "__main__":
    run_script(main)
