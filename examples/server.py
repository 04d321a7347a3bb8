"""A service that answers one image at a time: `python server.py`, then, from another terminal,

    curl --data-binary @digit.png -H 'Content-Type: image/png' localhost:8000/label

Needs the extra `server` (FastAPI and uvicorn). The model is trained here so that the example runs
alone; a real one would be read by `OpenSet.load("folder")`.
"""

import threading
from typing import Annotated

import torch
from fastapi import Body, FastAPI, HTTPException

import openset
from openset import UNKNOWN, OpenSet, Tap
from openset.detectors import Energy


def train_model() -> OpenSet:
    """A model of the digits 0–5 that knows how an image file becomes its input."""
    data = openset.data.load("digits", known_classes=range(6), valid=0.3)
    network = openset.networks.cnn(classes=6, channels=1, widths=(16, 32), hidden=64)
    objective = openset.objectives.CrossEntropy(network)
    openset.train(objective, data.train, epochs=15, optimizer="adam", lr=0.002, batch_size=64)
    model = OpenSet(Tap(network), Energy(), classes=data.classes, adapter=data.adapter)
    return model.calibrate(data.valid, accept=0.95)


torch.manual_seed(0)
model = train_model()
app = FastAPI(title="openset")
one_at_a_time = threading.Lock()  # One pass takes all cores; two at once would only share them.


@app.get("/model")
def describe() -> dict:
    """What the model knows and what its threshold promises."""
    return {"classes": model.classes, "guarantee": model.threshold.guarantee()}


@app.post("/label")
def label(picture: Annotated[bytes, Body(media_type="image/*")]) -> dict:
    """The class of an image file of any size, or "unknown", with its score and the threshold."""
    try:
        image = model.adapter.open(picture, name="the picture")
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    with one_at_a_time:
        (answer,), (score,) = model(image[None].float() / 255)
    name = "unknown" if answer == UNKNOWN else model.classes[int(answer)]
    return {"label": name, "score": float(score), "threshold": model.threshold.values[0]}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
