"""The commands are registered without being imported, and their help says what they say."""

import inspect
from importlib import import_module

import pytest
from command_line import call

from openset.commands.app import COMMANDS, sentence


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_that_begins_with_its_docstring(name, capsys):
    file, function = COMMANDS[name].split(":")
    told = inspect.getdoc(getattr(import_module(f"openset.commands.{file}"), function))
    assert told is not None
    assert told.split("\n\n")[0] == sentence(file, function)
    call(name, "--help")
    assert "Usage" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys):
    call("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for name, place in COMMANDS.items():
        assert name in shown
        assert sentence(*place.split(":")).replace("`", "")[:20] in shown
