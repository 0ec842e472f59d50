#!/usr/bin/env python
"""Write a corpus to try the code on, without real features."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.make_synthetic import main

if __name__ == "__main__":
    run_script(main)
