"""`openset predict --cluster` beside one process, with a worker and the driver killed in between.

    OPENSET_DATA=… python speed/cluster.py [--images 100000]     # needs the extra `cluster`

Copies of MNIST's test images, as files or as Parquet, go through the command on one process and on
Ray's workers, one for each core. Each side answers a quarter of the images and then all, and the
rate is that of the other three quarters, without the start. Compared is processor time of all
processes of a call (Linux), so that others may be at work beside it. Then a worker is killed after
the first part and the driver after the next, and the same command goes on: every image must be
answered once and as by the local path.
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
    """Name, parent and processor seconds of a process, those of its ended children included."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # It has ended.
        return None
    name, rest = text.partition("(")[2].rsplit(")", 1)
    told = rest.split()
    return name, int(told[1]), sum(map(int, told[11:15])) / TICK


def family(root: int) -> dict[int, tuple[str, float]]:
    """Name and processor seconds of a process and all that descend from it."""
    stats = {int(p.name): stat_of(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found, more = {}, {root}
    while more:
        found |= {pid: stats[pid][::2] for pid in more if stats.get(pid)}
        more = {pid for pid, stat in stats.items() if stat and stat[1] in more}
    return found


class Call:
    """A command that runs beside this process, with the processor time of all its processes."""

    def __init__(self, *arguments: object):
        command = [sys.executable, "-m", "openset", "predict", *map(str, arguments)]
        # Ray's workers stand back behind everyone else; beside others at work they would not end.
        equal = os.environ | {"RAY_worker_niceness": "0"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=equal)
        self.seen: dict[int, float] = {}
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.seen |= {pid: seconds for pid, (_, seconds) in family(self.process.pid).items()}
            time.sleep(0.1)

    def seconds(self) -> float:
        """Processor seconds, after its end, which must be a good one."""
        _, said = self.process.communicate()
        self.watch.join()
        if self.process.returncode:
            raise RuntimeError(said)
        return sum(self.seen.values())

    def kill_worker(self) -> None:
        """Kills one process of Ray that scores."""
        workers = [p for p, (name, _) in family(self.process.pid).items() if "Scorer" in name]
        os.kill(workers[0], signal.SIGKILL)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.watch.join()

    def wait_for_parts(self, out: Path, count: int) -> None:
        while len([*out.glob("part-*.parquet")]) < count:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended before its part {count}; give more images")
            time.sleep(0.01)


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


def survive(command: tuple[object, ...], out: Path) -> int:
    """Kills a worker after the first part and the driver after the next, and goes on to the end."""
    call = Call(*command)
    call.wait_for_parts(out, 1)
    call.kill_worker()
    call.wait_for_parts(out, 2)
    call.kill()
    left = len([*out.glob("part-*.parquet")])
    Call(*command).seconds()
    return left


def main(count: int, kind: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        images, took = make_model(home / "model"), {}
        for size in (count // 4, count):
            write_images(images, size, home / f"{size}")
            local = home / f"{size}.parquet"
            sides = {
                "local": (home / f"{size}" / "files", "--out", local),
                "cluster": (
                    home / f"{size}" / kind,
                    "--cluster",
                    "--out",
                    home / f"answers-{size}",
                ),
            }
            for side, command in sides.items():
                took[side, size] = Call(home / "model", *command).seconds()
                told = "files" if side == "local" else kind
                print(f"{side}, {size:,} images as {told}: {took[side, size]:.1f} s", flush=True)
        alone, shared = (took[s, count] - took[s, count // 4] for s in ("local", "cluster"))
        print(f"rate of the cluster beside one process: {alone / shared:.2f}", flush=True)
        out = home / "killed"
        left = survive((home / "model", home / f"{count}" / kind, "--cluster", "--out", out), out)
        rows = read(home / f"{count}.parquet")
        for folder in (home / f"answers-{count}", out):
            print(f"{folder.name}: {count:,} rows, each once and as locally: {same(folder, rows)}")
        print(f"a worker and the driver were killed; {left} parts were there then")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kind", choices=("files", "parquet"), default="files")
    given = parser.parse_args()
    main(given.images, given.kind)
