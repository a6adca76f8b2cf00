"""Sections of the report: a new file in this folder that registers one is a new section."""

from benchmark.registry import import_modules

import_modules(__name__, list(__path__))
