"""Files that openset wrote are read as they were written, or refused in one sentence."""

import json
import os

import pytest
import torch

from openset.files import SEAL, header, read_json, read_tensors, save_tensors, sealed_json

VALUE = {"lr": 0.1, "names": ["é", "b"], "nested": {"1": [None, True, -(2**62)]}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(sealed_json(VALUE), encoding="utf-8")
    return path


def test_json_comes_back_without_its_seal(file):
    assert read_json(file) == VALUE
    assert SEAL in json.loads(file.read_text(encoding="utf-8"))


def test_json_without_a_seal_is_read(file):
    file.write_text(json.dumps(VALUE))
    assert read_json(file) == VALUE


def test_a_changed_value_is_found(file):
    file.write_text(file.read_text(encoding="utf-8").replace("0.1", "0.2"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.json is damaged: it was changed after"):
        read_json(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "it holds a list"),
        ("null", "it holds a NoneType"),
        ("", "Expecting value"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "inf is no JSON number"),
        (f'{{"a": 1{"0" * 400}}}', "more than 64 bits"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "a key of c is there twice"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        (f'{{"a": {"[" * 60 + "]" * 60}}}', "nested more than 40 deep"),
        (f'{{"a": {"[" * 99_999 + "]" * 99_999}}}', "nested more than 40 deep"),
        ("\xff", "can't decode"),
    ],
)
def test_what_is_no_plain_object_is_refused(file, text, says):
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"a.json is damaged: .*{says}"):
        read_json(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
@pytest.mark.parametrize("read", [read_json, read_tensors, header])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no ordinary file"):
        read(tmp_path / "pipe")


def test_any_flipped_bit_of_tensors_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"x": torch.arange(6.0).view(2, 3), "y": torch.tensor([True, False])}
    save_tensors(tensors, path, {"told": 'a "sha256":"name"'})
    content = path.read_bytes()
    assert header(path) == {"x": ("F32", (2, 3)), "y": ("BOOL", (2,))}
    passed = 0
    for place in range(len(content)):
        for bit in (0, 5):
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            )
            try:
                found = read_tensors(path)
            except ValueError:
                continue
            passed += 1
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], x) for name, x in tensors.items())
    assert passed < 30, "only the name of the seal may change unnoticed"
