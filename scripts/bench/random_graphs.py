"""Random graphs of the registry's layers: does each file equal its simulation?

The same as `tests/conformance/test_random_graphs.py`, with other graphs and more of
them. A pack of them is quantized and converted as one model. Its result is kept as soon
as it is there, so that a run can be stopped and goes on later.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from common import CACHE, ROOT, Check, Report, arguments, code_digest, say

GRAPHS = 25  # of a pack
CODE = ("kacc", "tests/conformance/random_graphs.py", "tests/conformance/rows.py")

# In turn: how a pack is quantized, and the kernels beside XNNPACK.
TURNS = (
    ("int8", "builtin"),
    ("int8", "reference"),
    ("int8-learned", "builtin"),
    ("int8-learned", "reference"),
    ("w4a8", "builtin"),
    ("w4a8", "reference"),
    ("int16x8", "builtin"),
    ("int16x8", "reference"),
)


def main() -> int:
    options = arguments(
        __doc__,
        ("--graphs", {"type": int, "default": 5000, "help": "how many (default 5000)"}),
        ("--seed", {"type": int, "default": 1, "help": "of all graphs (default 1)"}),
    )
    count = 2 * GRAPHS if options.quick else options.graphs
    digest = code_digest(*CODE)
    folder = CACHE / "bench" / f"random-graphs-{options.seed}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    packs, worker = [], _Worker()
    for number in range(-(-count // GRAPHS)):
        path = folder / f"{number}.json"
        if not path.is_file():
            _keep(path, worker.pack(number, options.seed))
        packs.append(json.loads(path.read_text()))
        failed = len(packs[-1]["failures"])
        say(f"pack {number + 1}: {packs[-1]['graphs']} graphs, {failed} fail")
    worker.pool.shutdown()
    return _report(options, packs)


def _keep(path: Path, pack: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(pack))
    part.replace(path)


class _Worker:
    """A process for the packs, since runtimes may crash."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        # A new one now and then: Keras and TensorFlow hold on to what they traced.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, max_tasks_per_child=20)

    def pack(self, number: int, seed: int) -> dict[str, Any]:
        """What came of a pack, or what is known of one that crashed."""
        try:
            return self.pool.submit(_pack, number, seed).result()
        except BrokenProcessPool:
            self._start()
        scheme, kernels = TURNS[number % len(TURNS)]
        failures = {f"graph {i} of pack {number}": "crash" for i in range(GRAPHS)}
        lost = {"scheme": scheme, "kernels": kernels, "graphs": GRAPHS, "kinds": []}
        return {**lost, "without a file": 0, "failures": failures, "seconds": 0}


def _pack(number: int, seed: int) -> dict[str, Any]:
    """What came of the graphs of one pack."""
    sys.path.insert(0, str(ROOT))
    import keras

    from tests.conformance.graph_checks import check, pack
    from tests.conformance.random_graphs import random_branches

    # Layers stay in Keras's memory otherwise.
    keras.backend.clear_session()
    branches = list(random_branches(seed, (number + 1) * GRAPHS))[number * GRAPHS :]
    recipe, kernels = TURNS[number % len(TURNS)]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried = pack(branches, recipe)
        failures = check(branches, ("xnnpack", kernels), recipe)
    failed = {str(f.graph): f"{f.kernels}: {f.what}" for f in failures}
    return {
        "scheme": recipe,
        "kernels": kernels,
        "graphs": len(tried.graphs),
        "without a file": len(tried.excluded),
        "kinds": sorted({k for g in tried.graphs.values() for k in g.kinds}),
        "failures": failed,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _report(options: Any, packs: list[dict[str, Any]]) -> int:
    result = Report("random_graphs", options.quick, {"seed": options.seed})
    rows = []
    for scheme in dict.fromkeys(scheme for scheme, _ in TURNS):
        own = [pack for pack in packs if pack["scheme"] == scheme]
        graphs = sum(pack["graphs"] for pack in own)
        rows.append(
            {
                "scheme": scheme,
                "graphs": graphs,
                "equal": graphs - sum(len(pack["failures"]) for pack in own),
                "without a file": sum(pack["without a file"] for pack in own),
                "seconds": sum(pack["seconds"] for pack in own),
            }
        )
    result.table("Graphs whose file equals the simulation on all kernels", rows)
    kinds = {kind for pack in packs for kind in pack["kinds"]}
    result.notes["types of layers and operators in them"] = str(len(kinds))
    for pack in packs:
        for graph, what in pack["failures"].items():
            result.notes[f"{pack['scheme']}, {what[:300]}"] = graph
    graphs = sum(row["graphs"] for row in rows)
    share = sum(row["equal"] for row in rows) / graphs
    result.checks.append(Check("share of equal graphs", share, ">=", 1.0, True))
    return result.finish(options.out)


if __name__ == "__main__":
    sys.exit(main())
