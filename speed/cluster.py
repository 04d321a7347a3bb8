"""`openset predict --cluster` beside one process, and with a worker and the driver killed.

    OPENSET_DATA=… python speed/cluster.py [--images 100000]     # needs the extra `cluster`

Copies of MNIST's test images, as files or as Parquet, go through the command on one process and on
a cluster of this machine with one worker for each core. For the rate each side answers a quarter of
the images and then all; the other three quarters count, without the start. Compared is processor
time of all processes (Linux), so that others may be at work beside it. Then a worker is killed
after the first part and the driver after the next, and the same command goes on: every image must
be answered once and as by the local path.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as arrow
from PIL import Image
from pyarrow import parquet

from openset import networks
from openset.data import load
from openset.detectors import build
from openset.model.fit import fit
from openset.model.records import read
from openset.objectives import CrossEntropy
from openset.scale.cluster import connected
from openset.training.loop import train

GROUP = 1024
TICK = os.sysconf("SC_CLK_TCK")


def make_model(folder: Path):
    """A saved model, and the test images that it is asked about."""
    data = load("ylecun/mnist,limit=2000")
    network = train(CrossEntropy(networks.cnn(classes=10, channels=1)), data, epochs=1, lr=0.05)
    (model,) = fit(network, {"energy": build("energy")}, data.train, data.valid).values()
    model.adapter = data.adapter
    model.save(folder)
    return data.test


def write_images(images, count: int, folder: Path) -> None:
    """So many copies of real images, as files and as Parquet."""
    cells = []
    (folder / "files").mkdir(parents=True)
    (folder / "parquet").mkdir()
    for i in range(count):
        file = folder / "files" / f"{i:06}.png"
        Image.fromarray(images.images[i % len(images)][0].numpy()).save(file)
        cells.append({"bytes": file.read_bytes(), "path": file.name})
    table = arrow.table({"image": cells})
    parquet.write_table(table, folder / "parquet" / "images.parquet", row_group_size=GROUP)


def stat_of(pid: int) -> tuple[str, int, float] | None:
    """Name, parent and processor seconds of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # It has ended.
        return None
    name, rest = text.partition("(")[2].rsplit(")", 1)
    told = rest.split()
    return name, int(told[1]), sum(map(int, told[11:13])) / TICK


def family(root: int) -> dict[int, tuple[str, float]]:
    """Name and processor seconds of a process and all that descend from it."""
    stats = {int(p.name): stat_of(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found, more = {}, {root}
    while more:
        found |= {pid: stats[pid][::2] for pid in more if stats.get(pid)}
        more = {pid for pid, stat in stats.items() if stat and stat[1] in more}
    return found


class Call:
    """A command that runs beside this process, with the processor time of all its processes.

    On the cluster these are all that descend from this process, which has started it.
    """

    def __init__(self, *arguments: object):
        command = [sys.executable, "-m", "openset", "predict", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.root = os.getpid() if "--cluster" in arguments else self.process.pid
        self.before, self.seen = self._times(), {}
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()

    def _times(self) -> dict[int, float]:
        found = family(self.root)
        return {pid: seconds for pid, (_, seconds) in found.items() if pid != os.getpid()}

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.seen |= self._times()
            time.sleep(0.5)

    def seconds(self) -> float:
        """Processor seconds, after its end, which must be a good one."""
        _, said = self.process.communicate()
        self.watch.join()
        if self.process.returncode:
            raise RuntimeError(said)
        return sum(took - self.before.get(pid, 0.0) for pid, took in self.seen.items())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.watch.join()

    def wait_for_parts(self, out: Path, count: int) -> None:
        while len([*out.glob("part-*.parquet")]) < count:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended before its part {count}; give more images")
            time.sleep(0.01)


def kill_worker() -> None:
    """Kills one process of Ray that scores."""
    workers = [pid for pid, (name, _) in family(os.getpid()).items() if "Scorer" in name]
    os.kill(workers[0], signal.SIGKILL)


def same(out: Path, local: list[dict]) -> bool:
    """Whether a folder answers each image once, in order, as the local path does to rounding."""
    told = json.loads((out / "_manifest.json").read_text())
    rows = [row for name in told["parts"] for row in read(out / name)]
    once = told["complete"] and len({row["path"] for row in rows}) == len(rows) == len(local)
    return once and all(
        row["label"] == other["label"]
        and abs(row["score"] - other["score"]) <= 1e-4 * max(1.0, abs(other["score"]))
        for row, other in zip(rows, local, strict=True)
    )


def survive(home: Path, count: int, kind: str) -> None:
    """Kills a worker after the first part and the driver after the next, and goes on to the end."""
    out = home / "killed"
    command = home / "model", home / f"{count}" / kind, "--cluster", "--out", out
    call = Call(*command)
    call.wait_for_parts(out, 1)
    kill_worker()
    call.wait_for_parts(out, 2)
    call.kill()
    left = len([*out.glob("part-*.parquet")])
    Call(*command).seconds()
    parts = len([*out.glob("part-*.parquet")])
    equal = same(out, read(home / f"{count}.parquet"))
    print(
        f"a worker and the driver killed, {left} of {parts} parts there: {count:,} rows, "
        f"each once and as locally: {equal}",
        flush=True,
    )


def rate(home: Path, count: int, kind: str, took: dict[int, float]) -> None:
    """The rate of the cluster beside that of one process, whose times are given."""
    shared = {}
    for size in took:
        out = home / f"answers-{size}"
        call = Call(home / "model", home / f"{size}" / kind, "--cluster", "--out", out)
        shared[size] = call.seconds()
        print(f"cluster, {size:,} images as {kind}: {shared[size]:.1f} s", flush=True)
    alone, together = (times[max(took)] - times[min(took)] for times in (took, shared))
    equal = same(home / f"answers-{count}", read(home / f"{count}.parquet"))
    print(f"rate of the cluster beside one process: {alone / together:.2f}; rows equal: {equal}")


def main(count: int, kind: str, killed: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home, took = Path(temporary), {}
        images = make_model(home / "model")
        for size in {count} if killed else {count // 4, count}:
            write_images(images, size, home / f"{size}")
            out = home / f"{size}.parquet"
            call = Call(home / "model", home / f"{size}" / "files", "--out", out)
            took[size] = call.seconds()
            print(f"one process, {size:,} images as files: {took[size]:.1f} s", flush=True)
        # Ray's workers stand back behind everyone else; beside others at work they would not end.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        with connected() as ray:
            os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
            survive(home, count, kind)
            if not killed:
                rate(home, count, kind, took)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kind", choices=("files", "parquet"), default="files")
    parser.add_argument("--killed", action="store_true", help="only kill, and measure no rate")
    given = parser.parse_args()
    main(given.images, given.kind, given.killed)
