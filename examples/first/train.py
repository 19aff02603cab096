"""A training that any laptop has time for: a straight line through noisy points. Its steps are counted, so that it can be planned.

skyloom job run --workers 2 examples/first/train.py --epochs 10
skyloom plan examples/first/train.py --deadline 2h --budget 5
"""

import argparse
import time

import numpy as np

from skyloom.runtime import context, steps

STEPS_OF_AN_EPOCH = 50
STEP_S = 0.002  # what a step of a real network would take

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=20)
epochs = options.parse_args().epochs

here, chance = context(), np.random.default_rng(0)
slope, offset = 0.0, 0.0
print(f"worker {here.rank} of {here.world_size}: {epochs} epochs of {STEPS_OF_AN_EPOCH} steps", flush=True)
for step in steps(epochs * STEPS_OF_AN_EPOCH):
    x = chance.normal(size=64)
    error = slope * x + offset - (3 * x + 1 + chance.normal(scale=0.1, size=64))
    slope -= 0.02 * float((error * x).mean())
    offset -= 0.02 * float(error.mean())
    time.sleep(STEP_S)
    if (step + 1) % (5 * STEPS_OF_AN_EPOCH) == 0:
        print(f"step {step + 1}: loss {float((error**2).mean()):.4f}", flush=True)
print(f"y = {slope:.2f} x + {offset:.2f}", flush=True)
