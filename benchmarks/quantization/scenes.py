"""Scenes inspected with many bundles, kept scene by scene in a file, so that bundles are compared on the same ones.

Measuring stops and goes on at any time: what the file lacks of the scenes that are wanted is measured, no more.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from engines.evaluation.fidelity import Trace
from engines.evaluation.sensitivity.executors import in_processes
from engines.evaluation.sensitivity.outcomes import Reported, Result, Traced, class_counts, macro_f1, result_of
from engines.evaluation.sensitivity.scoring import examine, traces
from engines.reference.renderer.canvas import Conditions
from engines.reference.renderer.scenes import AS_TRAINED, FIRST_HELD_OUT_SEED, HARD, Scene, render_scene

CHUNK = 40  # scenes that a bundle is opened for
TRACED = 10  # of them that are also compared token by token
SETS: Mapping[str, Conditions] = {"hard": HARD, "as trained": AS_TRAINED}
_SAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Chunk:
    """Scenes next to each other."""

    conditions: str  # one of SETS
    index: int


@dataclass
class Seen:
    """What a bundle made of the scenes of a set."""

    reports: list[Reported] = field(default_factory=list)
    traces: list[Traced] = field(default_factory=list)

    @property
    def result(self) -> Result:
        """The sums and shares."""
        return result_of(self.reports, self.traces)


@dataclass(frozen=True)
class Beside:
    """A bundle beside float16, on the same scenes."""

    gained_f1: float
    low: float  # 95 % of bootstrap samples lie between these
    high: float
    changed: float  # share of scenes in which other classes are reported
    nearer: int  # scenes in which fewer classes are wrong or missed
    further: int  # scenes in which more are


def measure(bundles: Mapping[str, Path], reference: str, chunks: Sequence[Chunk], path: Path, processes: int) -> None:
    """Inspect what ``path`` lacks of ``chunks`` with ``bundles``, by a name that is theirs alone, and append it."""
    there = {(Chunk(line["set"], line["chunk"]), line["bundle"]) for line in _lines(path)}
    tasks = [(chunk, name) for chunk in chunks for name in bundles if (chunk, name) not in there]
    if not tasks:
        return
    done = in_processes(partial(_open_worker, dict(bundles), reference), tasks, processes)
    for line in tqdm(done, desc="inspecting", total=len(tasks), unit="chunk", disable=None):
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line)


def load_seen(path: Path) -> dict[str, dict[str, Seen]]:
    """What was measured, by set and bundle, scenes in the same order for each, as far as there is no gap."""
    found: dict[str, dict[str, Seen]] = {conditions: defaultdict(Seen) for conditions in SETS}
    for line in sorted(_lines(path), key=lambda line: line["chunk"]):
        seen = found[line["set"]][line["bundle"]]
        if len(seen.reports) != CHUNK * line["chunk"]:
            continue
        seen.reports += [Reported(*values) for values in line["reports"]]
        seen.traces += [Traced(*values) for values in line["traces"]]
    return found


def beside(ours: Sequence[Reported], theirs: Sequence[Reported]) -> Beside:
    """Compare reports on the same scenes: those that both have, drawn again and again."""
    both = min(len(ours), len(theirs))
    counts = [class_counts(side[:both]) for side in (ours, theirs)]
    drawn = np.random.default_rng(0).multinomial(both, np.full(both, 1 / both), size=_SAMPLES)
    gained = _f1(drawn, counts[0]) - _f1(drawn, counts[1])
    low, high = np.quantile(gained, (0.025, 0.975))
    every = np.ones((1, both), np.int64)
    changed = [one.found != other.found for one, other in zip(ours, theirs, strict=False)]
    more_wrong = np.subtract(*(side[:, 1].sum(axis=1) for side in counts))
    return Beside(
        gained_f1=float((_f1(every, counts[0]) - _f1(every, counts[1]))[0]),
        low=float(low),
        high=float(high),
        changed=float(np.mean(changed)),
        nearer=int((more_wrong < 0).sum()),
        further=int((more_wrong > 0).sum()),
    )


def _f1(drawn: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.einsum("bn,nkc->kbc", drawn, counts, optimize=True)
    return macro_f1(sums[0], sums[1])


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _open_worker(bundles: Mapping[str, Path], reference: str) -> Callable[[tuple[Chunk, str]], str]:
    """Inspects the scenes of a chunk with a bundle, and says as a JSON line what came of it."""

    @lru_cache(maxsize=1)
    def prepared(chunk: Chunk) -> tuple[list[Scene], list[Trace]]:
        first = FIRST_HELD_OUT_SEED + CHUNK * chunk.index
        scenes = [render_scene(seed, conditions=SETS[chunk.conditions]) for seed in range(first, first + CHUNK)]
        return scenes, traces(bundles[reference], scenes[:TRACED])

    def inspect(task: tuple[Chunk, str]) -> str:
        chunk, name = task
        return _line(chunk, name, *examine(bundles[name], *prepared(chunk)))

    return inspect


def _line(chunk: Chunk, bundle: str, reports: Sequence[Reported], found: Sequence[Traced]) -> str:
    rows = {"reports": _rounded(reports), "traces": _rounded(found)}
    return json.dumps({"set": chunk.conditions, "chunk": chunk.index, "bundle": bundle, **rows}) + "\n"


def _rounded(rows: Sequence[Reported] | Sequence[Traced]) -> list[list[object]]:
    return [[float(f"{v:.4g}") if isinstance(v, float) else v for v in astuple(row)] for row in rows]


def chunks_of(hard: int, plain: int) -> Iterator[Chunk]:
    """Enough chunks for so many scenes, both sets in turn, so that any beginning of the list is balanced."""
    wanted = {"hard": -(-hard // CHUNK), "as trained": -(-plain // CHUNK)}
    every = [(index / count, Chunk(name, index)) for name, count in wanted.items() for index in range(count)]
    yield from (chunk for _, chunk in sorted(every, key=lambda item: item[0]))
