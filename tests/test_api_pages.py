"""The API pages have an entry for every public name, and for nothing else."""

import re
from pathlib import Path

import pytest

import openset
from openset import data, densities, detectors, networks, objectives
from openset.densities import DENSITIES
from openset.detectors import DETECTORS
from openset.objectives import OBJECTIVES

PAGES = Path(__file__).parents[1] / "docs" / "api"
FOLDERS = {"data", "densities", "detectors", "networks", "objectives"}


def classes(table, *further):
    return {*(found.__name__ for found in table.values()), *further}


PUBLIC = {
    "openset": set(openset.__all__) - FOLDERS,
    "openset.data": set(data.__all__),
    "openset.densities": classes(DENSITIES, "Density"),
    "openset.detectors": classes(DETECTORS, "Detector", "build"),
    "openset.networks": {*networks.__all__, *networks.LIBRARIES},
    "openset.objectives": classes(OBJECTIVES, "Objective"),
}
FACTORIES = [getattr(networks, table) for table in networks.__all__ if table.isupper()]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_its_entry(module):
    text = (PAGES / f"{module.rpartition('.')[2]}.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)$", text, re.M)
    assert sorted(entries) == sorted(f"{module}.{name}" for name in PUBLIC[module])


def test_every_network_that_has_a_name_is_public():
    made = [factory for table in FACTORIES for factory in table.values()]
    assert {factory.__name__ for factory in made} <= PUBLIC["openset.networks"]


@pytest.mark.parametrize("module", [densities, detectors, objectives])
def test_every_entry_is_found_where_the_page_says(module):
    for name in PUBLIC[module.__name__]:
        assert getattr(module, name).__doc__
