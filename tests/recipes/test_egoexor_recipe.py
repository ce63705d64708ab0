"""EgoExOR's published training at a thousandth of its size, by settings alone: 4 bits, LoRA, bfloat16, two branches."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

from computing.experiments import CONFIGS
from operating_room.domain.domain import bundled
from scene_graph_generation.config.settings import read_experiment, to_mapping, with_vocabulary
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.samples.training_data import read_records, record_text
from tests.operating_room.importers.tiny_egoexor import split_rows, tiny_take, write_legacy
from tests.recipes.small_scene_graph import SMALL, mmor, plain
from tests.scene_graph_generation.tiny_bases import write_bases
from tests.scene_graph_generation.tiny_training import losses

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
SIZES = ("layers", "heads", "mlp", "mask_channels", "audio_width")  # of the pooler; its branches and places stay


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported takes with samples, a language model and a vision tower as bases, and the experiment file made small."""
    root = tmp_path_factory.mktemp("egoexor")
    takes = [tiny_take("MISS", 1, 2, frames=3), tiny_take(frames=3, seed=2), tiny_take("MISS", 1, 1, frames=2, seed=1)]
    rows = [split_rows(take) for take in takes]
    source = write_legacy(root / "all.h5", takes, {"train": [*rows[0], *rows[1]], "test": rows[2]})
    data = root / "data"
    mmor("data", "import", "egoexor", source, "--out", data, "--workers", "1")
    mmor("scene-graph", "preprocess", "audio-embeddings", "--data", data, "--audio-encoder", "mel", "--workers", "1")
    mmor("data", "convert-relations", data)
    mmor("scene-graph", "samples", "--data", data, "--permutations", "4", "--no-temporal-augmentation")
    (samples,) = (data / "llava_samples").glob("train_4perm_*.json")
    tokens = train_tokens(map(record_text, read_records(samples)), SMALL.vocabulary, bundled("egoexor").language)
    language, vision = write_bases(root, settings=with_vocabulary(SMALL.model, tokens.size))
    tokens.save(language)
    mmor("scene-graph", "samples", "--data", data, "--permutations", "4", "--tokenizer", language)
    published = yaml.safe_load((CONFIGS / "scene_graph" / "egoexor.yaml").read_text())
    sizes = plain(to_mapping(SMALL.model))
    published["model"] |= {name: sizes[name] for name in ("vision", "points", "max_length")}
    published["model"]["pooler"] |= {"body_width": 8, **{name: sizes["pooler"][name] for name in SIZES}}
    published["start"] |= {"base": str(language), "lora": {"rank": 4, "alpha": 8, "dropout": 0.05}}
    published["start"] |= {"vision": str(vision), "vision_layers": 1}
    frequencies = data / "llava_samples" / "train_token_freqs_7b_4perm.json"
    published["files"] = {"samples": [str(samples)], "data": str(data), "token_frequencies": str(frequencies)}
    published["train"] |= {"accumulation": 2, "workers": 0, "save_steps": 1}
    (root / "egoexor.yaml").write_text(yaml.safe_dump(published))
    return root


@needs_bitsandbytes
def test_the_published_training_and_both_scores(recipe: Path) -> None:
    experiment = read_experiment(recipe / "egoexor.yaml")
    train, start = experiment.train, experiment.start
    assert (start.bits, train.bf16, train.gradient_checkpointing, experiment.model.pooler.branches) == (
        *(4, True, True),
        "ego_exo",
    )
    out = recipe / "out"
    mmor("scene-graph", "train", "--config", recipe / "egoexor.yaml", "--out", out, "--max_steps", 2)
    assert len(losses(out)) == 2
    trained = torch.load(out / "non_lora_trainables.bin", weights_only=True)
    for part in ("gaze_encoder", "hand_encoder", "audio_projector", "point_transformer"):
        assert any(part in name for name in trained), part
    assert all(tensor.isfinite().all() for tensor in trained.values() if tensor.is_floating_point())
    results = recipe / "scores.json"
    mmor("scene-graph", "evaluate", "--model", out, "--data", recipe / "data", "--split", "test", "--limit", 1,
         "--max-new-tokens", 4, "--out", results)  # fmt: skip
    assert {"f1_official", "f1_truth"} <= json.loads(results.read_text())["egoexor"].keys()
