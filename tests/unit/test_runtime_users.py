"""Users of an image: its passwd file belongs to a stranger."""

from __future__ import annotations

from pathlib import Path

import pytest
from swarmpy.node.runtime import StartRejected, users


def test_a_user_whose_number_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"web:x:{'9' * 5000}:0::/:/bin/sh\napp:x:7:8::/home:/bin/sh\n")
    assert users.resolve(tmp_path, "app", ()) == users.User(7, 8, (), "/home")
    for wanted in ("web", "9" * 5000):
        with pytest.raises(StartRejected, match="not a valid id"):
            users.resolve(tmp_path, wanted, ())
