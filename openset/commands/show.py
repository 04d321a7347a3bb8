"""`openset show`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Network, Trust
from openset.commands.screen import say


def show(
    model: Path, image: Path, *, out: Path, trust: Trust = None, network: Network = None
) -> None:
    """Save an image as the network sees it: resized, cropped and with its colour channels.

    Args:
        model: A run, or a model's folder or file.
        image: An image file.
        out: The picture to write, such as `seen.png`.
    """
    from PIL import Image

    from openset.files import complete_file
    from openset.runs.run import Run, load_model

    endings = Image.registered_extensions()
    if out.suffix.lower() not in endings:
        raise ValueError(f"cannot write {out.name}; end the name in .png")
    run = (model / "run.json").exists()
    holder = Run.load(model) if run else load_model(model, None, trust or (), network)
    adapter = holder.adapter
    if adapter is None:
        raise ValueError(
            f"{model} does not say how an image becomes its input; "
            "save it with OpenSet(…, adapter=Adapter(size, channels))"
        )
    seen = adapter.show(image)
    with complete_file(out) as partial:
        seen.save(partial, endings[out.suffix.lower()])
    say(f"{adapter}: {out}")
