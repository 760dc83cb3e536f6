"""Recipes and their dry runs: if these fail, a run of days starts from a wrong size, rate or step count."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from dclocal_train.config import Recipe, RecipeError, load_recipe
from dclocal_train.dry_run import Plan, dry_run, format_plan
from dclocal_train.memory import activation_bytes
from dclocal_train.recipe_files import known_recipes
from dclocal_train.stages import prepare_stage
from tests.tiny import tiny_config, tiny_llm

ROOT = Path(__file__).parent.parent
CLIP, SIGLIP = 303.5, 413.0  # millions: openai's vision tower with its class token; SigLIP's without its pooling head
# tokens, projector in and out, language model (as published, in billions), tower (millions), LoRA (millions) or 0
EXPECTED: dict[str, tuple[int | tuple[int, int], int, int, float, float, float]] = {
    "clip-vicuna-7b": (576, 3072, 4096, 6.74, CLIP, 0),
    "clip-vicuna-7b-144": (144, 3072, 4096, 6.74, CLIP, 0),
    "clip-vicuna-13b": (576, 3072, 5120, 13.0, CLIP, 0),
    "siglip-vicuna-7b": (729, 3456, 4096, 6.74, SIGLIP, 0),
    "siglip-vicuna-13b": (729, 3456, 5120, 13.0, SIGLIP, 0),
    "siglip-phi2": (729, 3456, 2560, 2.78, SIGLIP, 0),
    "siglip-llama3-8b": (729, 3456, 4096, 8.03, SIGLIP, 0),
    "siglip-llama3-8b-144": (144, 3456, 4096, 8.03, SIGLIP, 0),
    "siglip-llama3-8b-tuned-vit": (729, 3456, 4096, 8.03, SIGLIP, 0),
    "siglip-vicuna-7b-anyres": ((2214, 3699), 3456, 4096, 6.74, SIGLIP, 0),
    "siglip-yi-34b-lora": (729, 3456, 7168, 34.4, SIGLIP, 983),
    "siglip-llama3-70b-lora": (729, 3456, 8192, 70.6, SIGLIP, 1657),
    "mini-gemini-vicuna-7b": (576, 3072, 4096, 6.74, CLIP + 196.2, 0),  # ConvNeXt-L has 196.2 M without its head
    "qlora-vicuna-7b": (576, 3072, 4096, 6.74, CLIP, 320),
    "dc-tiny": (144, 2432, 576, 0.1345, 26.5, 14.65),
    "dc-tiny-more": (144, 2432, 576, 0.1345, 26.5, 14.65),
}
PLACE_NETS = {"dc-tiny": 1_818_127, "dc-tiny-more": 1_818_127}
"""Parameters of the connector that are trained beforehand and frozen."""
PAPER = [name for name in EXPECTED if name not in ("dc-tiny", "dc-tiny-more", "mini-gemini-vicuna-7b")]


@lru_cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(known_recipes()[name])


@lru_cache
def plan_of(name: str, *overrides: str) -> Plan:
    return dry_run(load_recipe(known_recipes()[name], overrides))


def test_every_recipe_is_expected_here() -> None:
    assert set(known_recipes()) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_sizes_are_the_published_ones(name: str) -> None:
    tokens, width, n_embd, billions, millions, lora = EXPECTED[name]
    plan = plan_of(name)
    assert plan.image_tokens == (tokens if isinstance(tokens, tuple) else (tokens, tokens))
    assert (plan.projector_input_width, plan.projector_output_width) == (width, n_embd)
    assert plan.parameters["llm"] == pytest.approx(billions * 1e9, rel=0.01)
    assert plan.parameters["vision"] == pytest.approx(millions * 1e6, rel=0.01)
    first, last = plan.stages[0], plan.stages[-1]
    connector = plan.parameters["connector"] - PLACE_NETS.get(name, 0)
    adapter = last.trained["llm"] if len(plan.stages) == 1 else 0
    assert first.trained == {"vision": 0, "connector": connector, "llm": adapter}
    assert last.trained["llm"] == pytest.approx(lora * 1e6 if lora else plan.parameters["llm"], rel=0.01)
    assert (last.trained["vision"] > 0) == (name == "siglip-llama3-8b-tuned-vit")
    for stage in plan.stages:
        assert stage.trained_total + stage.frozen_total >= plan.parameters["total"]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_schedule(name: str) -> None:
    """Global batches 256 and 128, 1e-3 then 2e-5, one epoch with 3 % of warm-up; one number wrong is another model."""
    recipe, plan = recipe_of(name), plan_of(name)
    align, instruct = plan.stages
    assert (align.steps, align.warmup_steps, align.global_batch) == (2181, 65, 256)
    assert (instruct.steps, instruct.warmup_steps, instruct.global_batch) == (5198, 156, 128)
    assert align.learning_rates == {"connector": 1e-3}
    rates = {"connector": 2e-5, **({"lora": 2e-4} if recipe.stages[1].lora else {"llm": 2e-5})}
    if name == "siglip-llama3-8b-tuned-vit":
        rates["vision"] = 2e-6
    assert instruct.learning_rates == rates
    for stage in recipe.stages:
        assert (stage.schedule, stage.weight_decay, stage.bf16, stage.epochs) == ("cosine", 0.0, True, 1.0)
        assert stage.gradient_checkpointing and stage.group_by_length and stage.branched_share == 0.0
        assert stage.max_turns >= 1000 and stage.max_length == (4096 if "anyres" in name else 2048)
    if recipe.stages[1].lora:
        assert (recipe.stages[1].lora.rank, recipe.stages[1].lora.alpha) == (128, 256)
    assert recipe.stages[0].prompt.startswith("plain")
    assert recipe.model is not None and recipe.model.prompt == recipe.stages[1].prompt


@pytest.mark.parametrize("name", PAPER)
def test_hidden_states_are_the_released_codes(name: str) -> None:
    plan = plan_of(name)
    groups = [(group[0], group[-1]) for group in plan.layer_groups]
    expected = (23, [(0, 11), (12, 23)]) if "clip" in name or "qlora" in name else (26, [(0, 12), (13, 25)])
    assert (plan.final_layer, groups) == expected


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_fits_the_gpus_that_it_names(name: str) -> None:
    """With 4 GiB to spare, by the best way of sharding."""
    if name.startswith("dc-tiny"):
        pytest.skip("for a CPU")
    plan = plan_of(name)
    limit = {1: 24, 8: 40, 32: 80}[plan.gpus]
    for stage in plan.stages:
        assert min(estimate.total_bytes for estimate in stage.memory.values()) < (limit - 4) * 2**30


@pytest.mark.parametrize(
    ("name", "overrides", "tokens"),
    [
        ("siglip-llama3-8b-144", ("model.connector.token_grid=null",), (169, 169)),
        ("siglip-vicuna-7b-anyres", ("model.connector.token_grid=[12,12]",), (444, 744)),
        ("clip-vicuna-7b", ("model.connector.token_grid=[8, 8]",), (64, 64)),
        ("clip-vicuna-7b", ("model.connector.kind=sti", "model.connector.layers=[7, 15]"), (576 + 144, 576 + 144)),
    ],
)
def test_overrides_reach_the_tokens(name: str, overrides: tuple[str, ...], tokens: tuple[int, int]) -> None:
    assert plan_of(name, *overrides).image_tokens == tokens


def test_rows_are_counted_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"id": number} for number in range(300)]))
    plan = plan_of("clip-vicuna-7b", f"data.folder={tmp_path}", "stages.0.rows=rows.json")
    assert (plan.stages[0].rows, plan.stages[0].rows_from, plan.stages[0].steps) == (300, "file", 2)
    assert plan.stages[1].rows_from == "recipe"
    unknown = plan_of("clip-vicuna-7b", "stages.0.row_count=null").stages[0]
    assert (unknown.rows, unknown.steps, unknown.rows_from) == (None, None, "unknown")


def test_accumulation_follows_the_processes() -> None:
    assert [stage.accumulation for stage in plan_of("clip-vicuna-7b").stages] == [2, 4]
    assert [stage.accumulation for stage in plan_of("clip-vicuna-7b", "gpus=1").stages] == [16, 32]
    with pytest.raises(RecipeError, match="no multiple of 3 processes"):
        plan_of("clip-vicuna-7b", "gpus=3")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.vision.bakbone=clip", "did you mean 'backbone'"),
        ("stages.0.warmup_shar=0.1", "did you mean 'warmup_share'"),
        ("model.vision.backbone=clop", "unknown vision backbone 'clop'; known: clip"),
        ("model.connector.kind=dcj", "unknown connector 'dcj'"),
        ("model.connector.token_grid=[12]", r"expected a list of 2"),
        ("model.connector.token_grid=[12, x]", "expected int"),
        ("model.connector.token_grid=[12, 12", "is not YAML"),
        ("model.llm.config.model_type=lama", "lama"),
        ("stages.1.prompt=vicuna", "stage instruct: prompt is 'vicuna'"),
        ("stages.0.batch_size=0", "batch_size is 0"),
        ("stages.1.name=align", "name of its own"),
        ("stages.2.steps=3", "there is no '2'"),
        ("model.llm.load_in_4bit=true", "train it with lora"),
        ("gpus=0", "gpus is 0"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        plan_of("clip-vicuna-7b", override)


def test_numbers_with_exponents_are_numbers_everywhere() -> None:
    """PyYAML reads 1e-6 as text, which would go into a tower's config as text."""
    recipe = load_recipe(known_recipes()["clip-vicuna-7b"], ["model.vision.tower.layer_norm_eps=1e-6"])
    assert recipe.model is not None and recipe.model.vision.tower["layer_norm_eps"] == 1e-6


def test_memory_follows_the_count_of_processes() -> None:
    """16 bytes a trained parameter, whole or divided (the ZeRO paper's arithmetic)."""
    stage = plan_of("clip-vicuna-7b").stages[1]
    trained, frozen = stage.trained_total, stage.frozen_total
    ddp, zero2, sharded = (stage.memory[way] for way in ("ddp", "zero2", "zero3/fsdp"))
    assert ddp.weights_bytes == 6 * trained + 2 * frozen and ddp.optimizer_bytes == 8 * trained
    assert zero2.weights_bytes == 2 * (trained + frozen)
    assert zero2.gradients_bytes + zero2.optimizer_bytes == pytest.approx(14 * trained / 8, abs=2)
    states = sharded.weights_bytes + sharded.gradients_bytes + sharded.optimizer_bytes
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    gathered = 2 * (trained + frozen - 30 * layer)
    assert states == pytest.approx((16 * trained + 2 * frozen) / 8 + gathered, rel=1e-6)
    one = plan_of("qlora-vicuna-7b").stages[0].memory
    assert list(one) == ["single"]
    assert one["single"].weights_bytes < 4.5 * 2**30  # Vicuna-7B in NF4 with bf16 embeddings, and CLIP


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("stages.0.gradient_checkpointing=true",),
        ("stages.0.lora={rank: 1, alpha: 1, learning_rate: 1e-4}",),
        ("stages.0.lora={rank: 1, alpha: 1, learning_rate: 1e-4, dropout: 0.1}",),
    ],
    ids=["frozen", "checkpointed", "lora", "dropout"],
)
def test_activations_are_about_what_autograd_saves(changes: tuple[str, ...]) -> None:
    """The formula against torch's own account of what it keeps, on a Llama small enough for a CPU."""

    from dclocal_models.vlm import DenseConnectorModel

    overrides = ("stages.0.batch_size=2", "stages.0.max_length=256", "stages.0.gradient_checkpointing=false", *changes)
    stage = load_recipe(known_recipes()["clip-vicuna-7b"], overrides).stages[0]
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 12, "vocab_size": 64}
    llm = tiny_llm(**shape, num_key_value_heads=4, tie_word_embeddings=False)
    model = DenseConnectorModel(tiny_config(), llm.to(torch.bfloat16)).train()
    prepare_stage(model, stage)
    embeds = torch.randn(2, 256, 256, dtype=torch.bfloat16, requires_grad=True)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that its address is not given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = model.base_llm.get_decoder()(inputs_embeds=embeds, use_cache=False).last_hidden_state
    assert output.requires_grad
    one_layer = 2 * 256 * (8 * 256 + 3 * 704) * 2 if stage.gradient_checkpointing else 0  # while backward runs
    others = 2 * (256 - 4) * 64 * 14 + 2 * activation_of_tower()
    estimated = activation_bytes(model, stage, 2, 1) - others - one_layer
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(estimated, rel=0.2)


def activation_of_tower() -> int:
    """What the tiny model's tower and connector hold for a picture: 5 states of 16 tokens, then the projector."""
    return (5 * 16 * 32 + 16 * (3 * 32 + 3 * 256)) * 2


def test_the_plan_reads_well() -> None:
    text = format_plan(plan_of("clip-vicuna-7b"))
    for part in ("6,738,415,616", "576 per image", "2,181 steps, 65 of warm-up", "groups 0–11, 12–23", "zero3/fsdp"):
        assert part in text


def test_the_page_on_training_shows_what_is_printed() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    assert format_plan(plan_of("clip-vicuna-7b")) in page
    assert all(f"| `{name}` |" in page for name in EXPECTED)


def test_any_recipe_can_be_turned_into_lora() -> None:
    """As the page on training has it."""
    lora = "stages.1.lora={rank: 128, alpha: 256, learning_rate: 2e-4}"
    stage = plan_of("siglip-vicuna-7b", lora, "stages.1.llm_learning_rate=null").stages[1]
    assert stage.trained["llm"] == pytest.approx(320e6, rel=0.01)
    assert stage.learning_rates == {"connector": 2e-5, "lora": 2e-4}
