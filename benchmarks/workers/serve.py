"""What all workers share: one JSON job a line in, one JSON reply a line out; loops that stop between two steps.

Runs in the environments of the peers as well: numpy, torch and the standard library only.
"""

from __future__ import annotations

import gc
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Job = dict[str, Any]


class Channel:
    """Jobs from stdin, replies to what was stdout. Whatever libraries print goes to stderr."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def next(self) -> Job | None:
        """The next job; None where the conductor has ended. Blocks without using the CPU."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def reply(self, **reply: Any) -> None:
        """One reply."""
        self._replies.write(json.dumps(reply) + "\n")


Handler = Callable[[Job, Channel], None]


def serve(handlers: Mapping[str, Handler], distributions: Sequence[str]) -> None:
    """Answer jobs until stdin ends. A handler replies itself, once or several times."""
    channel = Channel()
    torch.set_num_threads(int(sys.argv[1]))
    channel.reply(versions={name: importlib.metadata.version(name) for name in distributions})
    while (job := channel.next()) is not None:
        reset_peak_memory()
        handlers[job["op"]](job, channel)
        gc.collect()


def reset_peak_memory() -> None:
    """Let the kernel count the peak of this process anew, where it can (Linux)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


class Stopped(Exception):
    """The conductor has seen enough: ends a training loop from within."""


class Pacer:
    """Lets a training loop that is not ours run in blocks of steps.

    `tick` is called after each step. At the end of a block it replies with the block's seconds and waits for the next
    job: `block` (n steps), `facts`, or `stop`, which raises `Stopped`. The clock stands still while it waits.
    """

    def __init__(self, channel: Channel, warm: int, facts: Callable[[], dict[str, Any]], device: str = "cpu") -> None:
        """The first block, of `warm` steps, begins at once."""
        self._channel, self._facts, self._device = channel, facts, device
        self._left, self._steps, self._total = warm, warm, 0
        self._start()

    def tick(self) -> None:
        """One step is done.

        Raises:
            Stopped: the conductor wants no more.
        """
        self._left -= 1
        self._total += 1
        if self._left > 0:
            return
        synchronise(self._device)
        seconds, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._channel.reply(steps=self._steps, seconds=seconds, cpu_seconds=cpu)
        self._wait()

    def _wait(self) -> None:
        while (job := self._channel.next()) is not None:
            if job["op"] == "block":
                self._left = self._steps = job["steps"]
                self._start()
                return
            if job["op"] == "stop":
                raise Stopped
            self._channel.reply(steps_done=self._total, **self._facts(), **device_memory(self._device))
        raise Stopped

    def _start(self) -> None:
        synchronise(self._device)
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def device_memory(device: str) -> dict[str, float]:
    """The most memory that tensors have taken on a GPU since the job began; nothing on the CPU."""
    return {"gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20} if device.startswith("cuda") else {}


def synchronise(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class Batches:
    """A pool of activations [n, d_in], served batch by batch in a circle."""

    def __init__(self, file: str, size: int, device: str = "cpu") -> None:
        self.rows = torch.from_numpy(np.load(file)).to(device)
        self.size = size
        self.count = len(self.rows) // size

    def __getitem__(self, index: int) -> Tensor:
        start = index % self.count * self.size
        return self.rows[start : start + self.size]


def load_weights(file: str, device: str = "cpu") -> dict[str, Tensor]:
    """W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec, and a threshold [d_sae] where the method has one."""
    with np.load(file) as arrays:
        return {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}


@torch.no_grad()
def describe(x: Tensor, codes: Tensor, x_hat: Tensor) -> dict[str, float]:
    """The sides' common measure of one batch: squared error per token, and L0."""
    return {
        "sse": float((x - x_hat).square().sum(-1).double().mean()),
        "l0": float((codes != 0).sum(-1).double().mean()),
    }


def write_rows(file: str, rows: Tensor) -> None:
    """A few rows [n, d] for the conductor to compare the sides by."""
    np.save(file, rows.detach().cpu().numpy())


def paced(job: Job, channel: Channel, step: Callable[[int], Any]) -> None:
    """Call `step(number)` again and again, in blocks; without gradients."""
    channel.reply(ready=True)
    with torch.no_grad():
        pacer = Pacer(channel, job["warm"], dict, job["device"])
        try:
            for number in itertools.count():
                step(number)
                pacer.tick()
        except Stopped:
            channel.reply(stopped=True)


def encode_loop(
    job: Job,
    channel: Channel,
    encode: Callable[[Tensor], Any],
    to_dense: Callable[[Any], Tensor],
) -> None:
    """Time `encode` over the pool's batches; `to_dense` makes what it returns comparable (not timed)."""
    batches = Batches(job["x"], job["batch"], job["device"])
    with torch.no_grad():
        write_rows(job["codes"], to_dense(encode(batches[0][:64])))
    paced(job, channel, lambda number: encode(batches[number]))


def capture_loop(job: Job, channel: Channel, capture: Callable[[Tensor], Tensor]) -> None:
    """Time `capture`, from tokens [b, s] to activations [b, s, d], over batches of the tokens given."""
    tokens = torch.from_numpy(np.load(job["tokens"])).to(job["device"])
    batches = tokens.split(job["sequences"])
    with torch.no_grad():
        write_rows(job["activations"], capture(batches[0])[:1].flatten(0, 1))
    paced(job, channel, lambda number: capture(batches[number % len(batches)]))
