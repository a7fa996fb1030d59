"""Prints "tag step value" of every scalar that TensorBoard's own reader finds; values as the hex of a float32."""
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
for tag in sorted(events.Tags()["scalars"]):
    for e in events.Scalars(tag):
        print(tag, e.step, struct.pack(">f", e.value).hex())
