"""A frame goes in, a valid report comes out; what cannot be opened is refused before it costs anything."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import (
    BackendError,
    BudgetExceededError,
    BundleCorruptError,
    BundleNotFoundError,
    BundleTargetError,
    FrameError,
    InspectionReport,
    Inspector,
    SchemaError,
    Timings,
    json_from_report,
    load_schema,
    report_from_json,
)
from edge_runtime.language.tokenizer import load_tokenizer
from edge_runtime.reports.schema import schema_from_document
from tests.manifests import edit


def frame(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def timeless(report: InspectionReport) -> InspectionReport:
    return replace(report, timings=Timings())


@pytest.mark.parametrize("which", ["tiny_bundle", "tiny_int4_bundle"])
def test_a_frame_becomes_a_report(which: str, request: pytest.FixtureRequest) -> None:
    with Inspector.open(request.getfixturevalue(which), threads=1) as inspector:
        report = inspector.inspect(frame())
    assert report_from_json(json.loads(json.dumps(json_from_report(report)))) == report
    assert report.tokens > 0
    parts = report.timings
    spent_ms = parts.preprocess_ms + parts.vision_ms + parts.prefill_ms + parts.decode_ms
    assert min(parts.preprocess_ms, parts.vision_ms, parts.prefill_ms, parts.decode_ms) > 0
    assert spent_ms == pytest.approx(parts.total_ms)


def test_a_frame_is_judged_alike_whatever_came_before_it(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, threads=1) as inspector:
        first = timeless(inspector.inspect(frame(0)))
        inspector.inspect(frame(1, 100, 30))
        assert timeless(inspector.inspect(frame(0))) == first


@pytest.mark.parametrize("limit", [0, 1, 2, 30, 100, 10_000])
def test_every_limit_gives_a_valid_report(tiny_bundle: Path, limit: int) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=limit, threads=1) as inspector:
        report = inspector.inspect(frame())
    assert report.tokens <= limit
    assert report.truncated or limit > 2
    assert report_from_json(json_from_report(report)) == report


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (4000, 1), (4320, 7680)])
def test_frames_of_any_size_are_inspected(tiny_bundle: Path, height: int, width: int) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=20, threads=1) as inspector:
        assert inspector.inspect(np.zeros((height, width, 3), np.uint8)).tokens == 20


def test_a_bad_frame_is_refused_and_the_next_one_is_inspected(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=20, threads=1) as inspector:
        for bad in (np.zeros((0, 0, 3), np.uint8), np.full((4, 4, 3), np.nan, np.float32)):
            with pytest.raises(FrameError):
                inspector.inspect(bad)
        assert inspector.inspect(frame()).tokens == 20


def test_a_budget_that_the_plan_exceeds_is_refused_before_any_component_is_loaded(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    for component in manifest["components"]:  # were one loaded, the error would be another
        for entry in component["files"]:
            junk = b"\0" * entry["size_bytes"]
            (bundle_copy / entry["path"]).write_bytes(junk)
            entry["sha256"] = hashlib.sha256(junk).hexdigest()
    edit(bundle_copy, **manifest)
    with pytest.raises(BackendError):
        Inspector.open(bundle_copy)
    with pytest.raises(BudgetExceededError, match="kv_cache"):
        Inspector.open(bundle_copy, budget="1MB")


def test_a_longer_report_needs_a_larger_budget(tiny_bundle: Path) -> None:
    planned = []
    for limit in (50, 100):
        with Inspector.open(tiny_bundle, max_report_tokens=limit) as inspector:
            planned.append(inspector.memory_plan.planned_bytes)
    assert planned[0] < planned[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"budget": "lots"}, "2GB"), ({"max_report_tokens": -1}, "0 or more"), ({"threads": 0}, "1 or")],
)
def test_options_that_make_no_sense_are_refused(tiny_bundle: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Inspector.open(tiny_bundle, **options)  # type: ignore[arg-type]


def test_what_was_measured_stays_within_the_plan(tiny_bundle: Path) -> None:
    script = (
        "import sys, numpy; from edge_runtime import Inspector\n"
        "with Inspector.open(sys.argv[1]) as inspector:\n"
        "    inspector.inspect(numpy.zeros((720, 1280, 3), 'uint8'))\n"
        "    print(inspector.memory_plan.planned_bytes, inspector.memory_plan.measured_bytes)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, tiny_bundle], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    planned, measured = map(int, printed.split())
    assert planned / 4 < measured < planned


def test_every_item_is_measured_but_those_that_are_not_held(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=20) as inspector:
        inspector.inspect(frame())
        unmeasured = {item.name for item in inspector.memory_plan.items if item.measured_bytes is None}
    assert unmeasured == {"embedding", "load_peak", "frame"}


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError):
        Inspector.open(tmp_path / "none")


def test_a_bundle_for_another_engine_is_refused(bundle_copy: Path) -> None:
    edit(bundle_copy, target="abacus")
    with pytest.raises(BundleTargetError, match="rebuild"):
        Inspector.open(bundle_copy)


def test_a_prompt_longer_than_the_model_can_read_is_refused(bundle_copy: Path) -> None:
    edit(bundle_copy, prompt={"segments": [{"text": "word " * 300}, {"text": None}]})
    with pytest.raises(BundleCorruptError, match="shorter prompt"):
        Inspector.open(bundle_copy)


def test_an_image_token_that_is_an_ordinary_letter_is_refused(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    letter = load_tokenizer(bundle_copy / "tokenizer.json").encode("e").ids[-1]
    edit(bundle_copy, model={**manifest["model"], "image_token_id": letter})
    with pytest.raises(BundleCorruptError, match="image token"):
        Inspector.open(bundle_copy)


def test_a_second_thread_is_refused_and_the_first_one_s_report_is_whole(tiny_bundle: Path) -> None:
    refusals = []

    def meanwhile(written: str) -> bool:
        with ThreadPoolExecutor(1) as other:
            refusals.append(other.submit(inspector.inspect, frame(1)).exception())
        return True

    with Inspector.open(tiny_bundle, threads=1) as inspector:
        alone = timeless(inspector.inspect(frame(0)))
        assert timeless(inspector.inspect(frame(0), should_continue=meanwhile)) == alone
        assert timeless(inspector.inspect(frame(0))) == alone
    assert refusals
    assert all(isinstance(refusal, BackendError) and "another thread" in str(refusal) for refusal in refusals)


def test_an_inspector_that_is_closed_does_not_inspect(tiny_bundle: Path) -> None:
    inspector = Inspector.open(tiny_bundle, max_report_tokens=20)
    inspector.close()
    inspector.close()
    with pytest.raises(BackendError, match="closed"):
        inspector.inspect(frame())


def test_an_answer_ends_valid_and_truncated_when_it_is_told_not_to_go_on(tiny_bundle: Path) -> None:
    seen: list[str] = []

    def should_continue(written: str) -> bool:
        seen.append(written)
        return len(seen) < 10

    with Inspector.open(tiny_bundle, threads=1) as inspector:
        report = inspector.inspect(frame(), should_continue=should_continue)
        whole = inspector.inspect(frame())
    assert report.truncated
    assert report.tokens < whole.tokens
    assert len(seen) == 10
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))


def test_a_question_changes_what_the_model_reads_for_that_frame_only(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=60, threads=1) as inspector:
        plain = timeless(inspector.inspect(frame()))
        asked = timeless(inspector.inspect(frame(), question="bolts?"))
        assert asked != plain
        assert asked.tokens < plain.tokens  # the question takes of the answer's room
        assert timeless(inspector.inspect(frame())) == plain


def test_another_question_about_a_frame_is_answered_as_if_it_were_the_first(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=60, threads=1) as inspector:
        first, *_ = (inspector.inspect(frame(seed), question="bolts?") for seed in (0, 1, 0))
        again = [inspector.inspect(frame(), question=question) for question in ("rust?", "bolts?")]
    assert timeless(again[-1]) == timeless(first)


def test_another_question_about_a_frame_costs_neither_its_eyes_nor_its_tokens_again(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Inspector.open(tiny_bundle, threads=1) as inspector:
        loaded, work = inspector._loaded, []
        assert loaded is not None
        bound, grow = loaded._vision._bound, loaded.decoder._cache.grow
        runs = tuple(lambda run=run: (work.append("vision encoder"), run()) for run in bound.runs)
        monkeypatch.setattr(loaded._vision, "_bound", replace(bound, runs=runs))
        monkeypatch.setattr(loaded.decoder._cache, "grow", lambda tokens: (work.append(tokens), grow(tokens)))

        def work_for(question: str) -> list[object]:
            work.clear()
            inspector.inspect(frame(), question=question, should_continue=lambda text: False)
            return list(work)

        encoder, *first = work_for("bolts?")
        assert encoder == "vision encoder"
        assert sum(work_for("rusts?")) == sum(first) - inspector.bundle.manifest.image.max_tokens


@pytest.mark.parametrize(("question", "says"), [("why? " * 500, "fewer words"), ("<image>", "image token")])
def test_a_question_that_cannot_be_put_is_refused_and_the_next_frame_inspected(
    tiny_bundle: Path, question: str, says: str
) -> None:
    with Inspector.open(tiny_bundle, max_report_tokens=20, threads=1) as inspector:
        with pytest.raises(ValueError, match=says):
            inspector.check_question(question)
        with pytest.raises(ValueError, match=says):
            inspector.inspect(frame(), question=question)
        assert inspector.inspect(frame()).tokens == 20


def test_another_schema_is_asked_for_and_answered_without_a_new_build(roomy_bundle: Path) -> None:
    pipeline = load_schema("pipeline")
    with Inspector.open(roomy_bundle, schema="pipeline", max_report_tokens=3000, threads=1) as inspector:
        report, prompt = inspector.inspect(frame()), inspector.bundle.manifest.prompt
    assert pipeline.instruction(100) in prompt.before_image
    assert "the structure" not in prompt.before_image
    assert report.schema == pipeline
    assert report_from_json(json.loads(json.dumps(json_from_report(report))), pipeline) == report


def test_a_bundles_own_schema_may_be_named(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, threads=1) as inspector:
        own = timeless(inspector.inspect(frame()))
    with Inspector.open(tiny_bundle, schema="bridge", threads=1) as inspector:
        assert timeless(inspector.inspect(frame())) == own


def test_a_schema_that_does_not_fit_into_the_context_is_refused(tiny_bundle: Path) -> None:
    wordy = {f"class {number}": "a long line on it " * 9 + "at last" for number in range(60)}
    schema = schema_from_document({"name": "wordy", "subject": "it", "classes": wordy, "severities": ["bad"]})
    with pytest.raises(SchemaError, match="cannot be decoded within the context"):
        Inspector.open(tiny_bundle, schema=schema)


def test_a_prompt_of_the_checkpoints_own_stays_and_the_log_says_so(
    bundle_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(bundle_copy, prompt={"segments": [{"text": "Report."}, {"text": None}, {"text": "Go:"}]})
    roofs = schema_from_document({"name": "roofs", "subject": "it", "classes": ["moss"], "severities": ["bad"]})
    with Inspector.open(bundle_copy, schema=roofs, threads=1) as inspector:
        assert inspector.bundle.manifest.prompt.before_image == "Report."
        assert {finding.defect_class for finding in inspector.inspect(frame()).findings} <= {"moss"}
    assert "held to the schema roofs, whose classes it need not name" in caplog.text
