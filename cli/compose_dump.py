"""A compose file's tree as YAML again: `stack config`."""

from __future__ import annotations

from typing import Any

from swarmpy.cli.yaml_tree import TAG, Item


def dump(item: Item) -> str:
    """Texts keep what YAML takes them for: a number stays one, a text that looks like one is quoted."""
    import yaml

    return str(yaml.serialize(node(yaml, item), Dumper=yaml.SafeDumper, allow_unicode=True))


def node(yaml: Any, item: Item) -> Any:
    if isinstance(item.value, dict):
        pairs = [(node(yaml, Item(key, item.line)), node(yaml, one)) for key, one in item.value.items()]
        return yaml.MappingNode(TAG + "map", pairs, flow_style=False)
    if isinstance(item.value, list):
        return yaml.SequenceNode(TAG + "seq", [node(yaml, one) for one in item.value], flow_style=False)
    if item.tag == "null":
        return yaml.ScalarNode(TAG + "null", "null")
    style = "|" if "\n" in item.value else None
    resolved = yaml.SafeLoader("").resolve(yaml.ScalarNode, item.value, (True, False))
    if item.tag == "str" and resolved != TAG + "str":
        style = "'"
    return yaml.ScalarNode(TAG + item.tag, item.value, style=style)
