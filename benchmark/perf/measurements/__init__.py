"""One file per measurement; a new file is measured, tabulated and drawn, and nothing else is edited."""

from __future__ import annotations

from benchmark.registry import import_modules

import_modules(__name__, list(__path__))
