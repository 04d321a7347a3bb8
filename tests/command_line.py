"""Commands as a user gives them, for the tests."""

import pytest

from openset.commands.app import main


def call(*arguments):
    main([str(a) for a in arguments])


def fails(capsys, *arguments):
    """The sentence on the screen, after checking the exit code and that no traceback came."""
    capsys.readouterr()  # What earlier commands said.
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert said.count("\n") == 1
    return said
