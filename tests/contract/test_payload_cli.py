"""`secret …` and `config …`, and their flags of services, against a Control server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from swarmpy.cli.parse_files import FileValue, file_value

from tests.contract.cli_double import Double
from tests.contract.test_cli_commands import Run, double, run, server, short_dir

__all__ = ["double", "run", "server", "short_dir"]
nouns = pytest.mark.parametrize("noun", ["secret", "config"])


@nouns
def test_create_from_a_file_and_from_standard_input(
    run: Run, double: Double, tmp_path: Path, noun: str
) -> None:
    (tmp_path / "f").write_bytes(b"\x00content\n")
    result = run(noun, "create", "-l", "a=b", "--label", "c", "app.conf", str(tmp_path / "f"))
    made = double.find(noun, "app.conf")
    assert (result.exit_code, result.stdout) == (0, f"{made.meta.id}\n")
    assert (made.data, dict(made.meta.labels), made.template_driver) == (
        b"\x00content\n",
        {"a": "b", "c": ""},
        "",
    )
    assert run(noun, "create", "--template-driver", "golang", "t", "-", input="{{.Task.Slot}}").exit_code == 0
    assert (double.find(noun, "t").data, double.find(noun, "t").template_driver) == (
        b"{{.Task.Slot}}",
        "golang",
    )
    assert run(noun, "create", "t", "-", input="again").exit_code == 5


@nouns
def test_what_is_not_accepted(run: Run, tmp_path: Path, noun: str) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (1000 * 1024 + 1))
    for file, says in (
        (str(large), "larger than"),
        (str(tmp_path / "no"), "No such file"),
        ("-", "is empty"),
    ):
        result = run(noun, "create", "a", file, input="")
        assert result.exit_code == 2
        assert says in result.output
    assert "--driver is not built" in run(noun, "create", "-d", "vault", "a", str(large)).output


@nouns
def test_lists_and_removal(run: Run, double: Double, noun: str) -> None:
    for name in ("b", "a"):
        assert run(noun, "create", "-l", f"n={name}", name, "-", input=name * 2000).exit_code == 0
    assert [line.split()[1] for line in run(noun, "ls").stdout.splitlines()] == ["NAME", "a", "b"]
    assert run(noun, "ls", "-f", "label=n=a", "--format", "{{.Name}}").stdout == "a\n"
    assert run(noun, "ls", "-q").stdout.split() == [double.find(noun, name).meta.id for name in ("a", "b")]
    assert run(noun, "rm", "a", "b").stdout == "a\nb\n"
    assert run(noun, "rm", "a").exit_code == 4


def test_inspect_of_a_config_shows_its_text(run: Run) -> None:
    run("config", "create", "a", "-", input="one\ntwo\n")
    assert '"data": "b25lCnR3bwo="' in run("config", "inspect", "a").stdout
    assert run("config", "inspect", "--pretty", "a").stdout.endswith("Data:\none\ntwo\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("token", FileValue("token")),
        ("source=token", FileValue("token")),
        ("src=token,target=/etc/t,uid=5,gid=6,mode=0400", FileValue("token", "/etc/t", 5, 6, 0o400)),
    ],
)
def test_values(text: str, value: FileValue) -> None:
    assert file_value(text) == value


@pytest.mark.parametrize("text", ["", "target=x", "source=a,uid=root", "source=a,mode=rw", "source=a,size=3"])
def test_values_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        file_value(text)


@nouns
def test_flags_of_services(run: Run, double: Double, noun: str) -> None:
    def references() -> list[tuple[Any, ...]]:
        container = double.find("service", "web").spec.task.container
        return [(r.source, r.target, r.mode) for r in getattr(container, noun + "s")]

    create = ["service", "create", "-d", "--name", "web", f"--{noun}", "a"]
    assert run(*create, f"--{noun}", "source=b,target=bb,mode=0440", "ok:1").exit_code == 0
    assert references() == [("a", "", 0), ("b", "bb", 0o440)]
    update = ["service", "update", "-d"]
    assert run(*update, f"--{noun}-rm", "b", f"--{noun}-add", "source=c,target=bb", "web").exit_code == 0
    assert references() == [("a", "", 0), ("c", "bb", 0)]
    assert run(*update, f"--{noun}-add", "source=d,target=bb", "web").exit_code == 0
    assert references() == [("a", "", 0), ("d", "bb", 0)], "what had its target has gone"
