"""A service that answers one image at a time: `python server.py`, then, from another terminal,

    curl --data-binary @digit.png -H 'Content-Type: image/png' localhost:8000/label

Needs the extra `server` (FastAPI and uvicorn). The model is trained here so that the example runs
alone; a real one would be read by `OpenSet.load("folder")`.
"""

from typing import Annotated

import torch
from fastapi import Body, FastAPI, HTTPException

import openset
from openset import OpenSet, Tap
from openset.detectors import Mahalanobis


def train_model() -> OpenSet:
    """A model of the digits 0–5 that knows how an image file becomes its input."""
    data = openset.data.load("digits", known_classes=range(6), valid=0.3)
    network = openset.networks.cnn(classes=6, channels=1, widths=(16, 32), hidden=64)
    objective = openset.objectives.CrossEntropy(network)
    openset.train(objective, data.train, epochs=15, optimizer="adam", lr=0.002, batch_size=64)
    tap = Tap(network, layers=["penultimate"])
    detector = Mahalanobis(layers="penultimate").fit(openset.extract(tap, data.train))
    model = OpenSet(tap, detector, classes=data.classes, adapter=data.adapter)
    return model.calibrate(data.valid, accept=0.95)


torch.manual_seed(0)
model = train_model()
app = FastAPI(title="openset")


@app.get("/model")
def describe() -> dict:
    """What the model knows and what its threshold promises."""
    return {"classes": model.classes, "guarantee": model.threshold.guarantee()}


@app.post("/label")
def label(picture: Annotated[bytes, Body(media_type="image/*")]) -> dict:
    """The class of an image file of any size, or "unknown", with what the model knows of it.

    FastAPI calls this in threads, of which several may ask the model at once.
    """
    try:
        (answer,) = model.predict(picture)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return answer.record()


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
