"""Words, tables, templates and documents."""

from __future__ import annotations

import pytest
from swarmpy.cli import output, template
from swarmpy.cli.converge import Progress, Slot
from swarmpy.cli.wait import lines_of
from swarmpy.proto import objects_pb2, types_pb2

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (MINUTE, "About a minute"),
        (5 * MINUTE, "5 minutes"),
        (HOUR, "About an hour"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (15 * DAY, "2 weeks"),
        (90 * DAY, "3 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_durations_in_words(seconds: int, words: str) -> None:
    assert output.span(seconds) == words
    assert output.ago(1000, 1000 + seconds * 1000) == f"{words} ago"


def test_a_clock_that_lags_does_not_show_the_future() -> None:
    assert output.ago(5000, 1000) == "Less than a second ago"


@pytest.mark.parametrize(("size", "words"), [(0, "0B"), (999, "999B"), (4_200_000, "4.2MB"), (10**12, "1TB")])
def test_sizes_in_words(size: int, words: str) -> None:
    assert output.size_word(size) == words


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    assert output.aligned([["A", "B"], ["日本", "x"], ["abc", ""]]) == ["A      B", "日本   x", "abc"]


VALUE = {
    "Name": "web",
    "Labels": {"a.b": "1"},
    "spec_version": 3,
    "Nodes": ["x", "y"],
    "Meta": {"Id": "7"},
    "On": True,
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{.Name}}", "web"),
        ("{{ .name }}/{{.SpecVersion}}", "web/3"),
        ("{{json .Labels}}", '{"a.b": "1"}'),
        ('{{index .Labels "a.b"}}', "1"),
        ('{{index .Labels "c"}}', ""),
        ("{{index .Nodes 1}}", "y"),
        ("{{len .Nodes}}", "2"),
        ("{{.Name | upper}}", "WEB"),
        ('{{join .Nodes ", "}}', "x, y"),
        ("a\\tb", "a\tb"),
        ("{{.Meta.ID}}", "7"),
        ("{{.Meta.Nope}}", "<no value>"),
        ("{{.On}}", "true"),
        ("{{json .Meta | len}}", "11"),
    ],
)
def test_templates(text: str, result: str) -> None:
    assert template.render(text, VALUE) == result


@pytest.mark.parametrize(
    "text",
    ["{{.Nope}}", "{{", "{{}}", "{{range .Nodes}}", "{{.Name .Name}}", "{{len .On}}", "{{index .Nodes 9}}"],
)
def test_templates_that_are_not_understood(text: str) -> None:
    with pytest.raises(ValueError):
        template.render(text, VALUE)


def test_headers() -> None:
    assert template.headers("{{.ID}}\\t{{.DesiredState}}\\t{{json .Labels}}") == "ID\tDESIRED STATE\tLABELS"


def test_documents() -> None:
    node = objects_pb2.Node(index=3)
    node.meta.labels["Zone_A"] = "1"
    node.spec.availability = types_pb2.AVAILABILITY_DRAIN
    assert output.document(node) == {
        "meta": {"labels": {"Zone_A": "1"}},
        "spec": {"role": "worker", "availability": "drain"},
        "role": "worker",
        "index": 3,
    }
    full = output.document(node, defaults=True)
    assert full["removed"] is False
    assert full["meta"]["name"] == ""
    assert "description" not in full
    assert "  Zone_A: 1" in [line[2:] for line in output.indented(output.document(node))]


def test_enums_are_words() -> None:
    task = objects_pb2.Task(desired_state=types_pb2.TASK_RUNNING)
    assert output.document(task)["desired_state"] == "running"
    service = objects_pb2.Service()
    service.update_status.state = objects_pb2.UPDATE_ROLLBACK_PAUSED
    assert output.document(service)["update_status"]["state"] == "rollback_paused"


def test_the_display_fits_the_terminal() -> None:
    class Size:
        lines, columns = 24, 60

    slots = tuple(Slot(f"web.{n}", "preparing", n % 2 == 0, "x" * 100 if n % 2 else "") for n in range(100))
    lines = lines_of(Progress(False, 100, slots), Size)
    assert len(lines) < 24
    assert max(len(line) for line in lines) < 60
    assert lines[0] == "overall progress: 50 out of 100 tasks"
    few = lines_of(Progress(True, 1, slots[:1]), Size)
    assert few == ["overall progress: 1 out of 1 tasks", "web.0: preparing"]
