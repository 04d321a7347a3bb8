"""Fixtures of pictures and of the local path's rows."""

import pytest
from command_line import call
from lake import fill

from openset.model.records import read


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The same pictures as files, as Parquet of several files and groups, and as tar shards."""
    return fill(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def local(run, lake, tmp_path_factory):
    """The rows of the local path."""
    out = tmp_path_factory.mktemp("local") / "answers.parquet"
    call("predict", run / "models" / "energy", lake / "files", "--out", out)
    return read(out)


@pytest.fixture(scope="module")
def two_cores():
    """A cluster of two cores on this machine."""
    ray = pytest.importorskip("ray", reason="needs the extra `cluster`")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()
