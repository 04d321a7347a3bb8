"""A normalizing flow of all classes, each class its condition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from openset.densities.base import Density, need_rows
from openset.densities.standardise import Standardise
from openset.sampling import reservoir
from openset.spec import Amount, Count


class Flow(Density):
    """Says how unlikely features are under a normalizing flow, in nats.

    Durkan et al., "Neural spline flows" (2019), https://arxiv.org/abs/1906.04032, built by zuko.
    One autoregressive flow serves all classes: it takes the class as one-hot condition, after each
    class's features got mean 0 and deviation 1. It is trained by Adam on a seeded sample of at most
    `max_rows` rows a class; the same seed gives the same flow.

    Args:
        transforms: Spline transformations in a row.
        hidden: Width of the two hidden layers of each.
        reduce: Keep this many principal components first; the surprise is then that of the
            projection. Advised from some hundred features on. None keeps all features.
        epochs: Passes over the sample.
        batch_size: Rows a step.
        lr: Adam's step size at the start; it falls to 0 along a cosine.
        max_rows: The most rows a class is trained on.
        seed: Seed of the sample, the weights and the order of the rows.

    Example:
        >>> density = Flow(transforms=1, hidden=8, epochs=2).fit([torch.randn(64, 2)])
        >>> near, far = density(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        >>> bool(far > near)
        True
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        transforms: Count = 3,
        hidden: Count = 64,
        reduce: Count | None = None,
        epochs: Count = 20,
        batch_size: Count = 256,
        lr: Amount = 2e-3,
        max_rows: Count = 5000,
        seed: int = 0,
    ):
        super().__init__()
        self.transforms, self.hidden, self.reduce = transforms, hidden, reduce
        self.epochs, self.batch_size, self.lr = epochs, batch_size, lr
        self.max_rows, self.seed = max_rows, seed
        self.standardise = Standardise(reduce)
        self.flow: nn.Module = nn.Identity()

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        rows, counts = reservoir(batches, classes, self.max_rows, self.seed)
        need_rows(counts, 2, self, "give more images of it")
        self.standardise.fit(batches)
        rows = [self.standardise(x) for x in rows]
        # A feature that is constant in its class keeps a tenth of its overall deviation.
        spread = [(x.var(0, correction=0) + 0.01).sqrt() for x in rows]
        self.keep(mean=torch.stack([x.mean(0) for x in rows]), spread=torch.stack(spread))
        labels = torch.arange(classes).repeat_interleave(torch.tensor([len(x) for x in rows]))
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self.seed)
            self.flow = self._build().to(self.mean)
            self._train(torch.cat(rows), labels.to(self.mean.device))
        self.flow.requires_grad_(False)
        return self

    def _build(self) -> nn.Module:
        classes, features = self.mean.shape
        hidden = (self.hidden, self.hidden)
        import zuko  # Slow to import.

        return zuko.flows.NSF(features, classes, transforms=self.transforms, hidden_features=hidden)

    def _train(self, x: Tensor, labels: Tensor) -> None:
        optimizer = torch.optim.Adam(self.flow.parameters(), self.lr)
        steps = self.epochs * -(-len(x) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        for _ in range(self.epochs):
            # Drawn on the CPU, so that the order of the rows is the same on every device.
            for chosen in torch.randperm(len(x)).to(x.device).split(self.batch_size):
                loss = self._negative_log_likelihood(x[chosen], labels[chosen]).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.flow.parameters(), 10.0)
                optimizer.step()
                schedule.step()

    def _negative_log_likelihood(self, x: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood `[M]` of standardised rows, each under the class of its label."""
        mean, spread = self.mean[labels], self.spread[labels]
        condition = nn.functional.one_hot(labels, self.classes).to(x)
        return spread.log().sum(1) - self.flow(condition).log_prob((x - mean) / spread)

    @property
    def classes(self) -> int:
        return len(self.mean)

    def surprise(self, x: Tensor, c: int) -> Tensor:
        return self(x, torch.full((len(x),), c, device=x.device))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        nats = self._negative_log_likelihood(self.standardise(x), labels)
        return nats + self.standardise.volume

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if prefix + "mean" in state_dict:
            # The flow's shape follows from the data's; its own weights are loaded after this.
            self.keep(mean=state_dict[prefix + "mean"])
            with torch.random.fork_rng():
                self.flow = self._build().to(self.mean).requires_grad_(False)
        super()._load_from_state_dict(state_dict, prefix, *args)
