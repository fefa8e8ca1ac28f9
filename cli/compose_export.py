"""A compose file that says by itself what a deployment meant: `stack export`. Pure.

Variables are filled in, files of variables are variables, contents of secrets and configs are the versions that the
cluster keeps (`external`), and services of profiles that were not chosen are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarmpy.cli.yaml_tree import Item

NOUNS = ("secrets", "configs")


def self_contained(
    root: Item, environments: Mapping[str, Sequence[str]], versions: Mapping[str, Mapping[str, str]]
) -> Item:
    """`environments`: of each chosen service by its key, NAME=VALUE; `versions`: of each declared secret and config
    that is the stack's own, by noun and key, its name in the cluster."""
    assert isinstance(root.value, dict)
    # Extensions at the top only held what anchors repeat, a secret's content perhaps.
    top = {key: item for key, item in root.value.items() if not key.startswith("x-")}
    services = top["services"]
    assert isinstance(services.value, dict)
    chosen = {
        key: _service(services.value[key], environment) for key, environment in environments.items()
    }  # fmt: skip
    top["services"] = Item(chosen, services.line, "map", services.file)
    for noun in NOUNS:
        if noun in top and isinstance(declared := top[noun].value, dict):
            named = {key: _version(one, versions[noun].get(key)) for key, one in declared.items()}
            kept = {key: one for key, one in named.items() if one is not None}
            top[noun] = Item(kept, top[noun].line, "map", top[noun].file)
            if not kept:
                del top[noun]
    return escaped(Item(top, root.line, "map", root.file))


def escaped(item: Item) -> Item:
    """What was filled in is not filled in once more when the file is read again."""
    if isinstance(item.value, dict):
        value: str | list[Item] | dict[str, Item] = {key: escaped(one) for key, one in item.value.items()}
    elif isinstance(item.value, list):
        value = [escaped(one) for one in item.value]
    else:
        value = item.value.replace("$", "$$")
    return Item(value, item.line, item.tag, item.file)


def _service(item: Item, environment: Sequence[str]) -> Item:
    assert isinstance(item.value, dict)
    keys = {key: one for key, one in item.value.items() if key not in {"env_file", "profiles"}}
    if "env_file" in item.value:
        keys["environment"] = Item([Item(entry, item.line) for entry in environment], item.line, "seq")
    return Item(keys, item.line, "map", item.file)


def _version(item: Item, name: str | None) -> Item | None:
    """None: it is not used, and nothing of it is in the cluster."""
    if isinstance(item.value, dict) and "external" in item.value:
        return item
    if name is None:
        return None
    return Item(
        {"external": Item("true", item.line, "bool"), "name": Item(name, item.line)}, item.line, "map"
    )
