"""YAML files as a tree that knows its lines: texts, lists and maps, nothing else.

Values stay as they are written (`010`, `yes`, `1.5g`): what they mean is for whoever reads them to say.
Bounded before anything is built: bytes, aliases, depth, and entries once aliases are followed, so that a
small file cannot become a large tree. Tags and several documents are refused, merge keys where the reader
does not ask for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TAG = "tag:yaml.org,2002:"
TAGS = {"str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq"}
BYTES_MAX, ALIASES_MAX, DEPTH_MAX, ENTRIES_MAX = 256 * 1024, 64, 32, 10_000


class YamlRefused(ValueError):
    """Says which file and line, and what is wrong."""


@dataclass(frozen=True)
class Item:
    """A text, a list of items or a map of items, and where it begins."""

    value: str | list[Item] | dict[str, Item]
    line: int
    tag: str = "str"  # what YAML takes a text for: str, int, bool, null, …
    file: str = ""


@dataclass(frozen=True)
class Bounds:
    """What a file may be."""

    size_bytes: int = BYTES_MAX
    aliases: int = ALIASES_MAX
    entries: int = ENTRIES_MAX
    merges: bool = False  # `<<` takes over what another map has


DEFAULT_BOUNDS = Bounds()


def load(text: str, file: str, bounds: Bounds = DEFAULT_BOUNDS) -> Item:
    """The one document of a file. Raises YamlRefused."""
    import yaml  # not at the top: most commands never read a file

    if len(text.encode()) > bounds.size_bytes:
        raise YamlRefused(f"{file}: larger than {bounds.size_bytes // 1024} KiB")
    try:
        check_bounds(yaml, text, file, bounds)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise YamlRefused(f"{file}{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise YamlRefused(f"{file}: {error}") from None
    if node is None:
        raise YamlRefused(f"{file}: it is empty")
    return Tree(file, bounds).item(node)


def check_bounds(yaml: Any, text: str, file: str, bounds: Bounds) -> None:
    aliases = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if aliases > bounds.aliases:
            raise YamlRefused(f"{file}, line {line}: more than {bounds.aliases} aliases")
        if depth > DEPTH_MAX:
            raise YamlRefused(f"{file}, line {line}: nested deeper than {DEPTH_MAX} levels")


class Tree:
    """From YAML's nodes to items, counting."""

    def __init__(self, file: str, bounds: Bounds) -> None:
        self._file = file
        self._bounds = bounds
        self._entries = 0
        self._open: set[int] = set()

    def item(self, node: Any) -> Item:
        line = node.start_mark.line + 1
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise YamlRefused(f"{self._file}, line {line}: more than {self._bounds.entries} entries")
        if node.tag.removeprefix(TAG) not in TAGS:
            raise YamlRefused(f"{self._file}, line {line}: the tag {node.tag} is not known")
        if isinstance(node.value, str):
            tag = node.tag.removeprefix(TAG)
            return Item("" if tag == "null" else node.value, line, tag, self._file)
        if id(node) in self._open:
            raise YamlRefused(f"{self._file}, line {line}: an alias that contains itself")
        self._open.add(id(node))
        try:
            if node.id == "sequence":
                return Item([self.item(entry) for entry in node.value], line, "seq", self._file)
            return Item(self._map(node), line, "map", self._file)
        finally:
            self._open.discard(id(node))

    def _map(self, node: Any) -> dict[str, Item]:
        found: dict[str, Item] = {}
        merged: dict[str, Item] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if self._bounds.merges and key.value == "<<" and not key.style:
                for name, item in self._merge(self.item(value), line).items():
                    merged.setdefault(name, item)
                continue
            if not isinstance(key.value, str) or key.value == "<<":
                raise YamlRefused(f"{self._file}, line {line}: a key must be a plain text")
            if key.value in found:
                raise YamlRefused(f"{self._file}, line {line}: {key.value!r} is there twice")
            item = self.item(value)
            found[key.value] = Item(item.value, line, item.tag, self._file)
        return {**merged, **found}

    def _merge(self, item: Item, line: int) -> dict[str, Item]:
        """What `<<` takes over: of a map, or of a list of maps, where the earlier counts."""
        maps = item.value if isinstance(item.value, list) else [item]
        result: dict[str, Item] = {}
        for one in maps:
            if not isinstance(one.value, dict):
                raise YamlRefused(f"{self._file}, line {line}: << takes a map, or a list of maps")
            for name, inner in one.value.items():
                result.setdefault(name, inner)
        return result
