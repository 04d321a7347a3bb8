"""The deployed model: a network, a detector and a threshold in one module and one file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from openset.activations import UNKNOWN, Activations, Each, EveryNth
from openset.data import Adapter
from openset.data.batch import check_images
from openset.data.loaders import per_pixel
from openset.detectors import Detector
from openset.detectors.rows import check_labels
from openset.extractors.base import Extractor
from openset.extractors.extract import stream
from openset.extractors.pixel_rows import HELD_OUT, pixel_rows
from openset.extractors.store import Store
from openset.extractors.tap import Tap
from openset.model import saved
from openset.networks.layers import is_channels_last
from openset.scoring.answers import ask
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import joined
from openset.scoring.threshold import ALIKE, Threshold, check_accept, known_groups

if TYPE_CHECKING:
    from openset.model.predict import Answer


class OpenSet(nn.Module):
    """A classifier that answers a known class or "unknown".

    Args:
        tap: Reads the network; its layers must be those that the detector was fitted on.
        detector: A fitted detector.
        threshold: The score above which a sample is unknown; `calibrate` finds it.
        classes: Names of the known classes, in the order of the labels.
        adapter: Turns an image file into the network's input; stored with the model.
        name: The model's name in results, such as `gemos:components=1`.
        about: Facts for the card of the saved model by name, such as `"Data"` and `"Accuracy"`.

    Example:
        >>> from openset.detectors import Energy
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(200, 1, 2, 2), torch.zeros(200, dtype=torch.long)
        >>> model = OpenSet(Tap(network), Energy()).calibrate([(images, labels)], accept=0.9)
        >>> label, score = model(images)
        >>> int((label == UNKNOWN).sum()) <= 20
        True
    """

    def __init__(
        self,
        tap: Tap,
        detector: Detector,
        threshold: Threshold | None = None,
        classes: Sequence[str] | None = None,
        adapter: Adapter | None = None,
        name: str | None = None,
        about: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.tap, self.detector = tap, detector
        self.classes, self.adapter, self.name = classes, adapter, name
        self.about = dict(about or {})
        self.held_out = HeldOut()
        self.set_threshold(threshold)

    def set_threshold(self, threshold: Threshold | None) -> Self:
        """Replaces the threshold; None accepts everything."""
        self.threshold = threshold
        values = torch.tensor([torch.inf]) if threshold is None else threshold.tensor()
        self.register_buffer("values", values.double(), persistent=False)
        return self

    def with_accept(self, accept: float) -> Self:
        """The same model with the threshold that accepts another share of known samples.

        It follows from the held-out scores that `calibrate` has kept, and promises what a
        calibration at this share would. Of more than 1,000 held-out scores not all are kept: whole
        percents are exact and so are the highest shares (`model.held_out.exact(accept)`); between
        them the threshold is the next higher one, so that no fewer are accepted than asked for.

        Args:
            accept: Share of known samples to accept.

        Raises:
            ValueError: If the model holds no held-out scores, as those of older versions, or too
                few for the share.
        """
        if not self.held_out.fitted:
            raise ValueError(
                "this model holds no held-out scores, so no other share can be accepted without "
                "data; fit it again, or call calibrate(held_out, accept)"
            )
        threshold = self.held_out.threshold(accept)
        doubt = None if self.threshold is None else self.threshold.doubt
        other = type(self)(
            self.tap, self.detector, None, self.classes, self.adapter, self.name, self.about
        ).train(self.training)
        other.held_out = self.held_out
        return other.set_threshold(threshold.doubted(doubt))

    def names(self, labels: Tensor | Iterable[int]) -> list[Any]:
        """The class names of labels, "unknown" for `UNKNOWN`.

        Args:
            labels: As `forward` gives them: `[N]`, or nested as label maps `[N, H, W]` are.

        Example:
            >>> from openset.detectors import Energy
            >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
            >>> model = OpenSet(Tap(network), Energy(), classes=["cat", "dog"])
            >>> model.names(torch.tensor([0, -1, 1]))
            ['cat', 'unknown', 'dog']
        """

        def name(label: Any) -> Any:
            if isinstance(label, list):
                return [name(each) for each in label]
            if label == UNKNOWN:
                return "unknown"
            if label < 0 or (self.classes and label >= len(self.classes)):
                raise ValueError(f"{label} is the label of no class; give those of model(images)")
            return self.classes[label] if self.classes else str(label)

        return name(labels.tolist() if isinstance(labels, Tensor) else [*map(int, labels)])

    def predict(self, images: Any, **options: Any) -> list[Answer]:
        """Answers for each image; see `openset.model.predict.predict`.

        Args:
            images: A path, a folder, a glob, a PIL image, an image file's bytes, an array
                `[H, W(, C)]`, a tensor `[C, H, W]`, a batch of either, an image set, or a list of
                any of these.
            options: `accept`, `threshold`, `fdr`, `storey`, `probabilities`, `batch_size` and
                `workers`.
        """
        from openset.model.predict import predict  # Which takes long to import.

        return predict(self, images, **options)

    def doubt(self, reason: str | None) -> Self:
        """Notes on the threshold why its guarantee need not hold; None notes nothing."""
        assert self.threshold is not None, "calibrate first"
        return self.set_threshold(self.threshold.doubted(reason))

    @property
    def extractor(self) -> Extractor:
        """Computes, from images, the activations that the detector scores."""
        return self.detector.view(self.tap)

    def forward(self, image: Tensor, threshold: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Labels and scores of a batch.

        Args:
            image: `[N, C, H, W]` of floats in 0…1.
            threshold: As for `decide`.

        Returns:
            The label `[N, *grid]`, `UNKNOWN` where the score is above the threshold, and the score
            `[N, *grid]`, higher = more unknown.
        """
        with torch.no_grad():
            return self.decide(self.extractor(check_images(image)), threshold)

    def decide(
        self, activations: Activations, threshold: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Labels and scores of activations of `extractor`, as `forward` gives them for images.

        Args:
            activations: Activations of any number of images.
            threshold: Another threshold `[1]`, or one for each class `[K]`, than its own.
        """
        predicted, score, threshold = self.judge(activations, threshold)
        label = torch.where(score <= threshold, predicted, UNKNOWN)
        shape = (
            activations.logits.shape[0],
            *activations.grid,
        )  # `len` would fix an export's batch.
        return label.view(shape), score.view(shape)

    def judge(
        self, activations: Activations, threshold: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Nearest known classes, scores and the thresholds that apply, `[M]` each, not on a grid.

        Args:
            activations: As for `decide`.
            threshold: As for `decide`.
        """
        predicted, score = self.detector.answer(activations)
        values = (self.get_buffer("values") if threshold is None else threshold).to(score.device)
        return predicted, score, values[predicted] if len(values) > 1 else values.expand_as(score)

    def calibrate(
        self,
        images: Any,
        accept: float = 0.95,
        *,
        per_class: bool = False,
        adjust: bool = True,
    ) -> Self:
        """Sets the threshold from held-out known data, which neither network nor fit has seen.

        Where the detector learns from held-out data too (a temperature, ranks), every other sample
        serves that and the rest sets the threshold, which keeps the threshold's guarantee.

        Args:
            images: An image set, a data set of (image, label), a loader or batches of them; or, for
                a detector that looks only once, activations of `tap`.
            accept: Share of known samples to accept.
            per_class: One threshold for each predicted class.
            adjust: Whether the detector learns; False if it has, from other held-out data.

        Raises:
            ValueError: If there are too few samples for the share, or none at all.
        """
        check_accept(accept)  # Before the images pass the network.
        given = are_activations(images)
        pixels = not given and per_pixel(images)
        seen = plain(self, images) if given else self._look(images, pixels)
        with tempfile.TemporaryDirectory() as folder:
            if adjust and self.detector.held_out and isinstance(seen, Iterator):
                seen = Store(Path(folder, "held-out")).write(seen)
            self.calibrate_on(seen, accept, per_class=per_class, adjust=adjust)
        return self.doubt(ALIKE if pixels else None)

    def calibrate_on(
        self,
        seen: Iterable[Activations],
        accept: float = 0.95,
        *,
        per_class: bool = False,
        adjust: bool = True,
    ) -> Self:
        """Sets the threshold as `calibrate` does, from activations of `extractor`.

        Args:
            seen: Read several times if the detector learns from them.
            accept: As for `calibrate`.
            per_class: As for `calibrate`.
            adjust: As for `calibrate`.
        """
        if adjust and self.detector.held_out:
            near = Each(EveryNth(seen, 2), lambda batch: batch.beside(self.detector))
            self.detector.adjust(near)
            seen = EveryNth(seen, 2, start=1)
        parts, classes, pixels = [], None, False
        for batch in seen:
            parts.append(ask(self.detector, batch).rows())
            known = batch.logits.shape[1] + self.detector.added
            check_labels(parts[-1].label, known)
            classes = known if per_class else None
            pixels = pixels or bool(batch.grid)
        scored = joined(parts)
        self.set_threshold(Threshold.of(scored, accept, classes))
        self.held_out.fit(known_groups(scored, classes))
        return self.doubt(ALIKE if pixels else None)

    def _look(self, images: Any, pixels: bool) -> Iterable[Activations]:
        if pixels:
            return pixel_rows(self.extractor, images, HELD_OUT, balanced=False)
        return stream(self.extractor, images)

    def describe(self) -> dict[str, Any]:
        """Everything but the tensors, as plain JSON values."""
        spec = getattr(self.tap.network, "spec", None)
        return {
            "format": 1,
            "name": self.name,
            "network": spec,
            "channels_last": is_channels_last(self.tap.network),
            "tap": self.tap.settings(),
            "detector": self.detector.spec(),
            "tuned_on": list(self.detector.tuned_on),
            "threshold": None if self.threshold is None else self.threshold.settings(),
            "classes": None if self.classes is None else list(self.classes),
            "adapter": None if self.adapter is None else self.adapter.settings(),
            "about": self.about,
            "state": saved.described_state(self.state_dict()),
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `model.safetensors`, its description `model.json` and a card; no pickle.

        The tensors' file holds the description too and can be loaded alone. The folder is complete
        or absent; an earlier model in it is replaced, anything else is refused.
        """
        saved.save(self, self.describe(), folder)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        network: nn.Module | None = None,
        trust: Sequence[str] = (),
    ) -> Self:
        """Reads a saved model, in evaluation mode; nothing in it is executed.

        Args:
            path: The folder, or its `model.safetensors` alone.
            network: The network to fill, for one that was not built by a name of openset.
            trust: Packages that may be imported for factories named `package.module:factory`.

        Raises:
            ValueError: If a file is missing, truncated or changed, or names what is not trusted.
        """
        return saved.load(cls, path, network, trust)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> str | None:
        """Saves as `save`, under the name that Hugging Face's libraries use.

        Args:
            save_directory: The folder.
            repo_id: The name on the hub; by default that of the folder.
            push_to_hub: Whether to upload it too.
            options: As for `push_to_hub`.
        """
        self.save(save_directory)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or Path(save_directory).name, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push a model of openset",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Uploads the model with its card to the Hugging Face hub; returns the commit's address.

        Args:
            repo_id: The model's name there, such as `you/digits`; it is made if it is new.
            commit_message: What the commit says.
            private: Whether a new one is private.
            token: Your token; by default that of `hf auth login`.
            branch: The branch to push to.
            create_pr: Whether to open a pull request.
        """
        from openset.model.hub import pushed

        options = {"commit_message": commit_message, "private": private, "token": token}
        return pushed(self.save, repo_id, **options, branch=branch, create_pr=create_pr)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        network: nn.Module | None = None,
        trust: Sequence[str] = (),
        **options: Any,
    ) -> Self:
        """Loads as `load`, from a folder or by a model's name on the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: The folder or the name.
            network: As for `load`.
            trust: As for `load`.
            options: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`.
        """
        from openset.model.hub import pulled

        return cls.load(pulled(pretrained_model_name_or_path, **options), network, trust)


def are_activations(images: Any) -> bool:
    """Whether these are batches of activations, and not of images."""
    if isinstance(images, torch.utils.data.Dataset) or not isinstance(images, Iterable):
        return False
    return isinstance(next(iter(images), None), Activations)


def plain(model: OpenSet, activations: Iterable[Activations]) -> Iterable[Activations]:
    """Plain activations, as they are; raises where the detector looks at the image again."""
    if model.extractor.looks_again:
        raise ValueError(
            f"{type(model.detector).__name__} looks at the image again, so plain activations do "
            "not serve; pass the images, such as data.valid"
        )
    return activations
