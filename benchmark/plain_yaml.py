"""YAML as people write settings: text, numbers, lists and fields by name; anything that could surprise is refused.

Refused by line and column: duplicate keys, keys that are not text, tags, numbers of more than 18 digits, nesting deeper
than 30 levels, and more than 100,000 values once every alias stands for its own copy (a "YAML bomb"). A date is text.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from benchmark.errors import UserError, one_line

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
MAX_VALUES = 100_000
#: the largest whole number, which 64 bits hold
MAX_WHOLE = 10**18
_CORE = "tag:yaml.org,2002:"
_KINDS = {
    ScalarNode: ("null", "bool", "int", "float", "str"),
    SequenceNode: ("seq",),
    MappingNode: ("map",),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, bounded before it makes anything."""

    # a broken date raises an error of its own, and no setting is a date; `=` is text
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_CORE}timestamp", f"{_CORE}value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        #: number of values below a node, with every alias counted as its own copy, by the node's id
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node and its children; refuse what is too deep, too much, or holds itself."""
        is_alias, place = self.check_event(AliasEvent), self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"more than {MAX_DEPTH} levels of nesting", place)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or id(node) in self._sizes:
            return node
        if is_alias:
            raise _refusal("an alias stands inside the value that it repeats", place)
        children: list[Any] = [] if isinstance(node, ScalarNode) else node.value
        if isinstance(node, MappingNode):
            children = [part for pair in children for part in pair]
        self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in children)
        if self._sizes[id(node)] > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES:,} values, aliases counted", place)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Make a value; every failure is a YAMLError with its place."""
        if node.tag.removeprefix(_CORE) not in _KINDS[type(node)]:
            raise _refusal(f"the tag {node.tag} is not read here", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise _refusal(
                f"'{str(node.value)[:40]}' cannot be read as {node.tag.removeprefix(_CORE)}", node.start_mark
            ) from error
        if isinstance(value, int) and abs(value) > MAX_WHOLE:
            raise _refusal("a whole number of more than 18 digits", node.start_mark)
        if isinstance(value, str) and any(one == "\0" or "\ud800" <= one <= "\udfff" for one in value):
            raise _refusal("an escape for half a character, or for none", node.start_mark)
        return value

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make fields by name; each once."""
        seen = set()
        for key, _ in node.value:
            if key.tag.endswith(":merge"):
                continue
            if not isinstance(key, ScalarNode) or not key.tag.endswith(":str"):
                shown = key.value if isinstance(key, ScalarNode) else "this"
                raise _refusal(f"the key {shown} is not text; quote it if it is a name", key.start_mark)
            if key.value in seen:
                raise _refusal(f"the key {key.value} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refusal(problem: str, place: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place)


def parse(text: str) -> Any:
    """Read one YAML document.

    Raises:
        UserError: for text that is no YAML, or not such YAML, with the line and the reason.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"not valid YAML: more than {MAX_BYTES:,} characters")
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=64)  # a command reads its suite and the published numbers more than once
def _parsed(text: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        reason = error.problem or error.context
        raise UserError(f"not valid YAML: {where}{one_line(str(reason))}") from error
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {one_line(' '.join(str(error).split()))}") from error


def read(path: Path) -> Any:
    """Read a file with one YAML document in UTF-8.

    Raises:
        UserError: for a file that cannot be read, and as `parse`; the caller adds the path.
    """
    try:
        if not path.exists():
            raise UserError("does not exist")
        if not path.is_file():  # opening a pipe would wait for its writer
            raise UserError("is not a file")
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"is not text in UTF-8 (byte {error.start + 1:,}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
