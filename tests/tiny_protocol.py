"""A protocol on the digits that takes seconds, for the tests."""

TINY = """\
title = "Digits, tiny."
data = "digits"
splits = [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
network = "cnn:widths=4+8,hidden=16"
detectors = ["msp", "energy", "mahalanobis", "gemos:components=1"]
metrics = ["auroc", "oscr"]
valid = 0.2
accept = 0.9
seeds = 2

[unknown]
near = ["left-out"]
far = ["gaussian-noise,limit=50", "uniform-noise,limit=50"]

[training]
epochs = 8
batch_size = 64
lr = 0.1

[quick]
splits = [[0, 1, 2, 3, 4, 5]]

[published.msp]
left-out = { auroc = 0.9 }
far = { auroc = 0.95 }

[others.CROSR]
left-out = { auroc = 0.8 }
"""
