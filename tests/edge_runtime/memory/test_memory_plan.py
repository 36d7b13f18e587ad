"""Bytes are counted item by item, and what does not fit is refused with the items."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.backends import open_backend
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import BudgetExceededError
from edge_runtime.memory.footprint import FOOTPRINTS
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem, check_fits, format_bytes, parse_bytes, plan_memory

PLAN = MemoryPlan((MemoryPlanItem("weights", 6_600_000_000), MemoryPlanItem("kv_cache", 400_000_000)))


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("11.4GB", 11_400_000_000),
        ("11.4 gb", 11_400_000_000),
        ("512MiB", 512 * 2**20),
        ("2G", 2_000_000_000),
        ("1024", 1024),
        (4096, 4096),
        (".5 kB", 500),
        ("7B", 7),
    ],
)
def test_amounts_of_memory_are_read(text: str | int, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", 0, -5, "1e9", "1,5GB", "11.4GW", "nan", "inf", "٣GB", "1 2"])
def test_what_is_no_amount_of_memory_is_refused_with_an_example(text: str | int) -> None:
    with pytest.raises(ValueError, match="2GB"):
        parse_bytes(text)


def test_amounts_are_written_for_people() -> None:
    assert [format_bytes(n) for n in (11_400_000_000, 1_590_000, 2_000, 12)] == [
        "11.40 GB",
        "1.59 MB",
        "2.00 kB",
        "12 B",
    ]


def test_a_plan_that_fits_is_admitted_and_remembers_its_budget() -> None:
    assert check_fits(PLAN, 7_000_000_000).budget_bytes == 7_000_000_000


def test_a_plan_that_does_not_fit_is_refused_item_by_item() -> None:
    with pytest.raises(BudgetExceededError) as refused:
        check_fits(PLAN, 6_900_000_000)
    message = str(refused.value)
    assert "100.00 MB more than the budget of 6.90 GB" in message
    assert "edge-engines plan CHECKPOINT --budget ... says what would fit" in message
    assert "kv_cache  400.00 MB" in message.replace("   ", "  ")
    assert refused.value.exit_code == 4


def test_measurements_stand_beside_the_plan() -> None:
    measured = PLAN.with_measured({"weights": 6_500_000_000, "surprise": 1000})
    assert measured.planned_bytes == PLAN.planned_bytes
    assert measured.measured_bytes == 6_500_001_000
    assert [item.name for item in measured.items] == ["weights", "kv_cache", "surprise"]
    assert "6.50 GB" in measured.table()


def test_the_plan_grows_with_the_cache_by_exactly_its_bytes(tiny_bundle: Path) -> None:
    manifest = load_bundle(tiny_bundle).manifest
    model = manifest.model

    def planned(tokens: int) -> int:
        return next(i.planned_bytes for i in plan_memory(manifest, tokens).items if i.name == "kv_cache")

    assert planned(200) - planned(100) == 100 * 2 * model.num_layers * model.num_kv_heads * model.head_dim * 4


def test_what_takes_most_to_load_is_counted_while_there_is_room(tiny_bundle: Path) -> None:
    manifest = load_bundle(tiny_bundle).manifest
    head = manifest.component("lm_head")
    huge = replace(head, files=tuple(replace(file, size_bytes=10**9) for file in head.files))
    others = tuple(component for component in manifest.components if component.role != "lm_head")

    memory_plan = plan_memory(replace(manifest, components=(*others, huge)), 200)

    passing = round(huge.size_bytes * FOOTPRINTS["onnxruntime"].load_per_stored["float16"])
    later = sum(
        memory_plan.item(n).planned_bytes
        for n in ("decoder", "kv_cache", "positions", "image_tokens", "activations", "frame")
    )
    assert memory_plan.item("load_peak").planned_bytes == passing - later


def test_scratch_grows_with_the_steps_of_a_prompt_and_not_with_the_whole(tiny_bundle: Path) -> None:
    manifest = load_bundle(tiny_bundle).manifest
    short, long = (plan_memory(manifest, tokens).item("activations").planned_bytes for tokens in (200, 400))
    assert 0 <= long - short <= 200 * 72 * manifest.model.num_heads * 4  # scores of 72 rows more tokens wide


def test_a_step_is_planned_as_long_as_it_is_made(tiny_bundle: Path) -> None:
    with closing(open_backend(load_bundle(tiny_bundle).manifest)) as backend:
        assert FOOTPRINTS["onnxruntime"].step_rows == backend.step_rows


def test_only_rows_of_the_embedding_that_can_be_asked_for_are_planned(tiny_bundle: Path) -> None:
    manifest = load_bundle(tiny_bundle).manifest
    embedding = manifest.component("embedding")
    huge = replace(embedding, files=tuple(replace(file, size_bytes=10**9) for file in embedding.files))
    others = tuple(component for component in manifest.components if component.role != "embedding")

    memory_plan = plan_memory(replace(manifest, components=(*others, huge)), 200)

    assert memory_plan.item("embedding").planned_bytes == 200 * 65536
