#!/usr/bin/env python
"""Estimate how long an experiment takes, its memory and disk space, and its bottleneck."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.plan import main

if __name__ == "__main__":
    run_script(main)
