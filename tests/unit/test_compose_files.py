"""Variables, merge keys and bounds of compose files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.cli import compose_vars, yaml_tree
from swarmpy.cli.compose_dump import dump
from swarmpy.cli.compose_files import BOUNDS, ComposeFiles
from swarmpy.cli.compose_merge import merged, plain
from swarmpy.cli.errors import UsageRefused

VALUES = {"SET": "value", "EMPTY": "", "OTHER": "other"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$SET-${SET}", "value-value"),
        ("$$SET $$$SET", "$SET $value"),
        ("${SET:-d} ${EMPTY:-d} ${NO:-d}", "value d d"),
        ("${SET-d} ${EMPTY-d} ${NO-d}", "value  d"),
        ("${SET:+d} ${EMPTY:+d} ${NO:+d}", "d  "),
        ("${EMPTY+d} ${NO+d}", "d "),
        ("${NO:-${EMPTY:-${OTHER}}}", "other"),
        ("${NO:-a}b}", "ab}"),
        ("${SET:?e} ${EMPTY?e}", "value "),
        ("$NO|", "|"),
    ],
)
def test_variables(text: str, wanted: str) -> None:
    assert compose_vars.filled(text, VALUES) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${NO:?say which}", "variable NO is not set: say which"),
        ("${EMPTY:?}", "variable EMPTY is not set"),
        ("${SET", "without }"),
        ("${}", "names no variable"),
        ("${SET!x}", "is not known"),
        ("cost: 5$", "write \\$\\$"),
        ("${A:-" * 20 + "}" * 20, "deeper than"),
    ],
)
def test_variables_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compose_vars.filled(text, VALUES)


@given(st.text())
def test_a_text_with_doubled_dollars_stays_what_it_is(text: str) -> None:
    assert compose_vars.filled(text.replace("$", "$$"), {}) == text


@given(st.text(alphabet="${}:-?+AB ", max_size=40))
def test_whatever_is_written_is_filled_in_or_refused(text: str) -> None:
    try:
        compose_vars.filled(text, {"A": "a"})
    except ValueError as error:
        assert str(error)


def test_files_of_variables() -> None:
    text = "# said\n\nexport A=1\nB = two words # said\nC='$A'\nD=\"$A\\n\" # said\nE=$A$SET\nF\nG=#x\n"
    found = compose_vars.variables(text, "f", VALUES)
    wanted = {"A": "1", "B": "two words", "C": "$A", "D": "1\n", "E": "1value", "F": None, "G": "#x"}
    assert found == wanted
    for bad in ("A B=1", "='x'", "A='x"):
        with pytest.raises(ValueError, match="f, line 1"):
            compose_vars.variables(bad, "f", {})


def test_merge_keys_take_over_what_is_not_there() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}\nd: {<<: *a}\n"
    root = yaml_tree.load(text, "f", BOUNDS)
    assert isinstance(root.value, dict)
    assert dump(root.value["c"]).split() == ["x:", "1", "y:", "1", "z:", "3"]
    with pytest.raises(yaml_tree.YamlRefused, match="line 1: a key must be a plain text"):
        yaml_tree.load("a: {<<: {b: 1}}", "f")
    with pytest.raises(yaml_tree.YamlRefused, match="takes a map"):
        yaml_tree.load("a: {<<: x}", "f", BOUNDS)


def test_a_small_file_does_not_become_a_large_tree(tmp_path: Path) -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    merges = ["a0: &a0 {" + ", ".join(f"k{n}: x" for n in range(100)) + "}"]
    merges += [f"a{n}: &a{n} [{', '.join(['*a0'] * 99)}]" for n in range(1, 8)]
    for lines, says in ((laughs, "more than 20000 entries"), (merges, "more than 20000 entries")):
        (tmp_path / "c.yml").write_text("\n".join(lines))
        with pytest.raises(UsageRefused, match=says):
            ComposeFiles([str(tmp_path / "c.yml")], [], []).tree()
    (tmp_path / "c.yml").write_text("x" * (BOUNDS.size_bytes + 1))
    with pytest.raises(UsageRefused, match="larger than 1024 KiB"):
        ComposeFiles([str(tmp_path / "c.yml")], [], []).tree()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "line 2: 'a' is there twice"),
        ("a: !!python/object:os.system x\n", "line 1: the tag"),
        ("a: [1\n", "line 2"),
        ("", "it is empty"),
        ("services: 3\n", "line 1: services: a map is wanted"),
        ("services: {a: {extends: b, image: x}, b: {extends: a, image: x}}\n", "in a circle"),
        ("services: {a: {extends: {service: b, file: none.yml}}}\n", "none.yml: No such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(UsageRefused, match=says):
        ComposeFiles([str(tmp_path / "c.yml")], [], []).project("shop")


def test_dot_env_and_env_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yml").write_text('services: {a: {image: "${A}-${B}"}}\n')
    (tmp_path / ".env").write_text("A=dot\nB=dot\n")
    (tmp_path / "other").write_text("A=other\nB=${A}!\n")
    monkeypatch.delenv("B", raising=False)

    def image(*env_files: str) -> str:
        return ComposeFiles([str(tmp_path / "c.yml")], env_files, []).project("shop").services[0].image

    monkeypatch.delenv("A", raising=False)
    assert image() == "dot-dot"
    assert image(str(tmp_path / "other")) == "other-other!"
    monkeypatch.setenv("A", "here")
    assert image() == "here-dot"


names = st.text(alphabet="abc", min_size=1, max_size=3)
trees = st.recursive(
    st.builds(lambda text: yaml_tree.Item(text, 1), names),
    lambda inner: (
        st.builds(lambda value: yaml_tree.Item(value, 1), st.lists(inner, max_size=3))
        | st.builds(lambda value: yaml_tree.Item(value, 1), st.dictionaries(names, inner, max_size=3))
    ),
)


@settings(max_examples=40)
@given(trees, trees)
def test_merging_twice_is_merging_once(base: yaml_tree.Item, over: yaml_tree.Item) -> None:
    once = merged(base, over)
    assert plain(merged(once, over)) == plain(once)
    assert plain(merged(base, base)) == plain(base) or "[" in plain(base)
