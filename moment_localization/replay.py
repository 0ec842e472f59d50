#!/usr/bin/env python
"""Compute once more the step at which a run stopped because it was not finite."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.replay import main

if __name__ == "__main__":
    run_script(main)
