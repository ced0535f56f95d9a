"""When each step of a peer ended, and the line of JSON that says so."""

import json
import os
import statistics
import time


class Stopwatch:
    """Counts from BENCH_BEGUN, the second at which whoever measures started the process."""

    def __init__(self, steps, warm):
        self.begun = float(os.environ.get("BENCH_BEGUN", time.time()))
        self.steps, self.warm = steps, warm
        self.ends, self.tokens, self.losses = [], [], []

    def begin(self):
        """Right before the first step."""
        self.started = time.time()

    def lap(self):
        """Right after a step; true after the last one."""
        self.ends.append(time.time())
        return len(self.ends) >= self.steps + self.warm

    def result(self, **more):
        """`tokens` holds each step's own, padding left out."""
        begins = [self.started, *self.ends]
        seconds = [end - begin for begin, end in zip(begins, self.ends)]
        speeds = [tokens / took for tokens, took in zip(self.tokens, seconds)][self.warm :]
        return {
            "steps": len(speeds),
            "warm": self.warm,
            "tokens_per_second": statistics.median(speeds),
            "tokens_per_second_best": max(speeds),
            "step_seconds": statistics.median(seconds[self.warm :]),
            "seconds_to_first_step": self.ends[0] - self.begun,
            "loss_first": self.losses[0] if self.losses else None,
            "loss_last": self.losses[-1] if self.losses else None,
            **more,
        }


def say(result):
    print("RESULT " + json.dumps(result), flush=True)
