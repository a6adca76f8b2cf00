"""A report as one HTML file that needs nothing else: figures inside, sortable tables, no request to anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


def page(content: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Render the content of a report (see `document.content`); `figures` holds the SVG of every figure by its path."""
    # every text is escaped, and a name that the content lacks is an error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    source = (resources.files("reports") / "template.html").read_text(encoding="utf-8")
    inside = {path: f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" for path, svg in figures.items()}
    return environment.from_string(source).render(report=content, figures=inside)


def _breakable(text: str) -> Markup:
    """Escape a text, and let a header `teacher:student` break after its colon."""
    return Markup("<wbr>").join(text.replace(":", ":\0").split("\0"))
