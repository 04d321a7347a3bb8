"""Peak memory of one training step with and without checkpointing, at the largest outliers.

    python speed/checkpointing.py            # the flows, and the small ladder with outliers
    python speed/checkpointing.py --large 4  # Ladder-DenseNet-121 on four crops of 512

The paper (Grcić et al. 2021) has 5.55 of 9.61 GB for the dense network with the largest outliers,
0.58, and 1.3 of 2.3 GB for CIFAR-10. On a GPU it is `torch.cuda.max_memory_allocated`; on a CPU the
bytes of all tensors that are alive at once. The loss must be the same.
"""

import argparse
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openset.networks import build, real_nvp
from openset.networks.device import choose_device
from openset.objectives import FlowOutliers


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made while it is open, and the most alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def _freed(self, key):
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.alive:
                storage = x.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result


def peak(step, device) -> int:
    """Bytes at the height of a step."""
    if device.type == "cuda":
        step()  # What libraries keep for themselves is there after this.
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    with Alive() as alive:
        step()
    return alive.peak


def flow_step(size, device, checkpoint):
    torch.manual_seed(0)
    flow = real_nvp(channels=3, checkpoint=checkpoint).to(device)
    image = torch.rand(16, 3, size, size, device=device)

    def step():
        drawn = flow.sample(16, (size, size))
        (flow.bits_per_dimension(image).mean() + drawn.mean()).backward()

    return step


def dense_step(network, crop, batch, device, checkpoint):
    torch.manual_seed(0)
    made = build(f"{network}:checkpoint={str(checkpoint).lower()}", classes=19)
    largest = (9 / 32, 9 / 32)
    objective = FlowOutliers(made, squeezes=3, checkpoint=checkpoint, sides=largest).to(device)
    image = torch.rand(batch, 3, crop, crop, device=device)
    label = torch.randint(19, (batch, crop, crop), device=device)

    def step():
        for _, loss in objective.step(image, label):
            loss.backward()

    return step


def main(large: int) -> None:
    device = choose_device(None)
    if large:
        cases = {f"ladder-densenet-121, {large} × 512": ("ladder-densenet-121", 512, large)}
    else:
        cases = {"ladder-small, 256": ("ladder-small", 256, 2)}
    steps = {f"flow, {size}": (flow_step, (size,)) for size in (16, 32)} if not large else {}
    steps |= {name: (dense_step, case) for name, case in cases.items()}
    for name, (make, case) in steps.items():
        plain, less = (
            peak(make(*case, device, checkpoint), device) for checkpoint in (False, True)
        )
        print(
            f"{name}: {plain / 2**20:.0f} MiB, {less / 2**20:.0f} checkpointed: {less / plain:.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=0, metavar="CROPS")
    main(parser.parse_args().large)
