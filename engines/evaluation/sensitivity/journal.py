"""Results of experiments as JSON lines: appended one by one, read again by a run that goes on, bound to their model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import BuildError, CalibrationError
from edge_runtime.typed_json import MismatchError, dataclass_from_json
from engines.evaluation.sensitivity.outcomes import Result


@dataclass(frozen=True)
class Journal:
    """A file whose first line says what the results hold for, and every other is one result."""

    path: Path
    binding: Mapping[str, Any]
    results: dict[str, Result]  # by the experiment's key

    def add(self, key: str, result: Result) -> None:
        """Append one result.

        Raises:
            BuildError: the file cannot be written.
        """
        self.results[key] = result
        self._append({"experiment": json.loads(key), "result": asdict(result)})

    def _append(self, document: Mapping[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(document) + "\n")
        except OSError as error:
            raise BuildError(f"cannot write {self.path}: {error}; finished experiments are kept") from error


def open_journal(path: Path, binding: Mapping[str, Any]) -> Journal:
    """The journal at ``path``, or a new one there; a last line that was cut short is left out, and measured again.

    Raises:
        CalibrationError: it holds results of something else, or is no journal.
    """
    journal = Journal(path, binding, {})
    if not path.exists() or not path.stat().st_size:
        journal._append({"binding": binding})
        return journal
    found = load_journal(path)
    if found.binding != binding:
        differs = next(name for name in binding if found.binding.get(name) != binding[name])
        raise CalibrationError(
            f"{path} holds results for {differs} {found.binding.get(differs)!r}, and this run is for "
            f"{binding[differs]!r}; choose another --out, or remove it"
        )
    return found


def load_journal(path: Path) -> Journal:
    """What a journal holds.

    Raises:
        CalibrationError: it cannot be read, or is none.
    """
    try:
        whole, _, cut = path.read_text(encoding="utf-8").rpartition("\n")
        first, *lines = (json.loads(line) for line in whole.splitlines())
        results = {
            json.dumps(line["experiment"], sort_keys=True): dataclass_from_json(line["result"], Result)
            for line in lines
        }
        journal = Journal(path, first["binding"], results)
    except (OSError, ValueError, KeyError, TypeError, MismatchError) as error:
        raise CalibrationError(
            f"{path} holds no results of edge-engines sensitivity ({error}); give the file that its --out wrote"
        ) from error
    if cut:  # so that the next result begins on a line of its own
        path.write_text(whole + "\n", encoding="utf-8")
    return journal
