"""Work done by several processes that are joined, for the tests."""

import multiprocessing
import os
import pickle
import socket
import traceback

import torch
from attack.material import headed, make_detector, small_network, three_classes
from test_every_objective import images, make
from test_pixels import Shades

import openset
from openset.detectors import Energy, MaxSoftmax
from openset.extractors.pixel_rows import pixel_rows
from openset.processes import here, joined
from openset.training.loop import train


def in_each(work, *given, count=2):
    """What `work` returns in each of several processes, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["several"])
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    running = [
        context.Process(target=_one, args=(rank, count, port, pipe, work, given))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for process in running:
        process.start()
    for _, pipe in pipes:
        pipe.close()
    told = [pickle.loads(pipe.recv_bytes()) for pipe, _ in pipes]
    for process in running:
        process.join()
    failed = [each for each in told if isinstance(each, AssertionError)]
    if failed:  # Whoever lost the other says less.
        raise min(failed, key=lambda each: "openset.errors.Lost" in str(each))
    return told


def _one(rank, count, port, pipe, work, given):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(rank, count, torch.device("cpu")):
        try:
            pipe.send_bytes(pickle.dumps(work(*given)))
        except Exception:
            pipe.send_bytes(pickle.dumps(AssertionError(traceback.format_exc())))
            raise


def fits(names):
    """What two models of each detector say and hold; another process fits the second, if any."""
    found = {}
    for name in names:
        network = headed(name, small_network()).eval()
        train, held_out = (
            [*zip(*(x.split(32) for x in three_classes(240, s)), strict=True)] for s in (1, 2)
        )
        pair = {}
        for place in ("first", "second"):
            torch.manual_seed(0)
            pair[place] = make_detector(name)
        models = openset.fit(network, pair, train, held_out, accept=0.9)
        image, _ = three_classes(60, 3)
        found[name] = {
            place: (*model(image), model.threshold, model.held_out.state_dict())
            for place, model in models.items()
        }
    return found


def learn(names):
    """The state of each objective after two epochs, whose batches of 25 do not share out evenly."""
    found = {}
    for name in names:
        torch.manual_seed(0)
        objective = make(name)
        train(objective, [images()], epochs=2, batch_size=25, lr=0.05, device="cpu")
        found[name] = objective.state_dict()
    return found


def pixels(folder):
    """The sample of pixels that a fit takes, and the figures of two detectors."""
    scenes = openset.data.load(folder, "not 3")
    tap = openset.Tap(Shades(), layers=["stage1"])
    (rows,) = pixel_rows(tap, scenes.train, most=40, group=here())
    known = openset.evaluate(
        tap, [MaxSoftmax(), Energy()], known=scenes.test, unknown={"the same": scenes.test}
    )
    return rows.logits, rows.labels, [(row.metric, row.value) for row in known.rows]
