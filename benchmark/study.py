"""Answer a question with a search: `python -m benchmark.study sdd_beta`. The machinery is in `studies`."""

from __future__ import annotations

from benchmark import command_line

if __name__ == "__main__":
    from studies.command import main

    command_line.run(main)
