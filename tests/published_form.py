"""Every registered checkpoint in its published form, with random weights and at toy size, as a hub would hold it.

Names, number formats, containers and settings files are those of the published ones (stage-1 specification, section
11; stage-2 specification, sections 0, 4 and 9); only widths and depths are smaller, and these come from settings.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from operating_room.domain.domain import mmor
from panoptic_segmentation.weights.checkpoints import build_model, published_state
from scene_graph_generation.config.settings import LanguageConfig, LoraConfig, MM2SGConfig, PoolerConfig, VisionConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.adapters import add_lora, freeze, is_adapter
from scene_graph_generation.weights.fine_tuned import adapter_state, other_state
from scene_graph_generation.weights.parameter_names import published_name
from tests.panoptic_segmentation.training.test_panoptic_train import TINY

LANGUAGE, VISION, CLAP = (
    "liuhaotian/llava-v1.5-7b",
    "openai/clip-vit-large-patch14-336",
    "laion/larger_clap_general",
)
TOWER = "model.vision_tower.vision_tower."
LORA = LoraConfig(rank=4, alpha=8, dropout=0.05)
LANGUAGE_SIZES = LanguageConfig(vocabulary=600, width=32, layers=2, heads=2, mlp=64)
SIZES = MM2SGConfig(
    vision=VisionConfig(image_size=28, width=16, layers=3, heads=2, mlp=32),
    pooler=PoolerConfig(mask_channels=(64, 128, 256, 512, 16)),
    language=LANGUAGE_SIZES,
)
SEGMENTERS = {
    "ctvis": "output_CTVIS_R50_HybridOR_withsimstation",
    "online": "output_R50_HybridOR_temporal_online_withsimstation",
    "offline": "DVIS_Plus_Offline_R50_HybridOR_temporal_offline_52_reverseagu_withsimstation",
}


def write_language(folder: Path, with_vision: bool = False) -> None:
    """LLaVA 1.5: two shards of float16 with an index, old rotary buffers inside, SentencePiece's tokenizer."""
    folder.mkdir(parents=True)
    sizes = LANGUAGE_SIZES
    write_json(folder / "config.json", llava_config())
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096})
    texts = [
        mmor().language.question,
        "A chat between a user and an assistant. USER: ASSISTANT: <SG> patient,saw,holding; </SG>",
    ] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=sizes.vocabulary, hard_vocab_limit=False, byte_fallback=True, split_digits=True,
        allow_whitespace_only_pieces=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2, max_sentence_length=10_000,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    state = {published_name(name): tensor for name, tensor in _model(0).state_dict().items()}
    start = ("model.image_pooler.",) if with_vision else ("model.image_pooler.", TOWER)
    state = {name: tensor.half() for name, tensor in state.items() if not name.startswith(start)}
    for layer in range(sizes.layers):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(sizes.width // sizes.heads // 2)
    names, files = list(state), [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    where = {name: files[i >= len(names) // 2] for i, name in enumerate(names)}
    for file in files:
        torch.save({name: state[name] for name in names if where[name] == file}, folder / file)
    total = sum(tensor.numel() * 2 for tensor in state.values())
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def write_clip(folder: Path) -> None:
    """All of CLIP in float32, with the settings of a library of its time."""
    folder.mkdir(parents=True)
    sizes = SIZES.vision
    old = {
        "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
        "bad_words_ids": None, "chunk_size_feed_forward": 0, "dropout": 0.0, "hidden_act": "quick_gelu",
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_factor": 1.0, "is_decoder": False,
        "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "prefix": None,
        "pruned_heads": {}, "return_dict": True, "tf_legacy_loss": False, "top_k": 50, "torch_dtype": None,
        "torchscript": False, "transformers_version": "4.21.3", "typical_p": 1.0, "use_bfloat16": False,
    }  # fmt: skip
    vision = {
        "hidden_size": sizes.width, "image_size": sizes.image_size, "intermediate_size": sizes.mlp,
        "num_attention_heads": sizes.heads, "num_hidden_layers": sizes.layers, "patch_size": sizes.patch_size,
    }  # fmt: skip
    write_json(
        folder / "config.json",
        {
            "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 8, "torch_dtype": "float32",
            "text_config": old | {"model_type": "clip_text_model", "hidden_size": 8, "vocab_size": 30},
            "text_config_dict": {"hidden_size": 8}, "vision_config_dict": vision, "transformers_version": None,
            "vision_config": old | vision | {"model_type": "clip_vision_model", "num_channels": 3},
        },
    )  # fmt: skip
    state = {published_name(name): tensor for name, tensor in _model(1).state_dict().items()}
    clip = {name.removeprefix(TOWER): tensor for name, tensor in state.items() if name.startswith(TOWER)}
    clip |= {"logit_scale": torch.tensor(4.6), "text_model.embeddings.position_ids": torch.arange(77)[None]}
    clip |= {"text_model.embeddings.token_embedding.weight": torch.ones(30, 8), "text_projection.weight": torch.eye(8)}
    clip |= {"vision_model.embeddings.position_ids": torch.arange(sizes.tokens + 1)[None]}
    torch.save(clip, folder / "pytorch_model.bin")


def write_clap(folder: Path) -> None:
    """A stand-in for the audio encoder, which is only fetched and told."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "clap", "architectures": ["ClapModel"]})
    torch.save(
        {"audio_model.a.weight": torch.ones(3), "text_model.b.weight": torch.ones(4)}, folder / "pytorch_model.bin"
    )


def write_scene_graph_zip(path: Path, text_only: bool, seed: int) -> None:
    """An archive with one folder: what the published training leaves, in bfloat16."""
    model = _model(seed)
    add_lora(model, LORA.rank, LORA.alpha, LORA.dropout)
    freeze(model, None if text_only else 2)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.1)
    if text_only:
        for part in ("vision", "pooler", "projector"):
            model.register_module(part, None)
    # Of the pooler only the published sizes are known from a published config.json, which says nothing of it.
    quantization = {
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "llm_int8_skip_modules": ["mm_projector", "image_pooler"], "load_in_4bit": True, "load_in_8bit": False,
    }  # fmt: skip
    config = llava_config() | {"_name_or_path": LANGUAGE, "mv_type": "learned", "tokenizer_model_max_length": 2048}
    adapter = {
        "auto_mapping": None, "base_model_name_or_path": LANGUAGE, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
        "lora_alpha": LORA.alpha, "lora_dropout": LORA.dropout, "modules_to_save": None, "peft_type": "LORA",
        "r": LORA.rank, "revision": None, "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (
            ("config.json", json.dumps(config | {"quantization_config": quantization}).encode()),
            ("adapter_config.json", json.dumps(adapter).encode()),
            ("adapter_model.bin", _saved(adapter_state(model))),
            ("non_lora_trainables.bin", _saved(other_state(model))),
        ):
            archive.writestr(f"{path.stem}/{name}", content)


def write_segmenter(folder: Path, kind: str) -> None:
    """A file of detectron2's checkpointer, with the state of its trainer."""
    folder.mkdir(parents=True)
    torch.manual_seed(len(kind))
    model = build_model(kind, TINY.segmenter, TINY.video)
    state = dict(published_state(model)) | {"criterion.empty_weight": torch.ones(TINY.segmenter.classes + 1)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-6}]}
    hooks = {"LRScheduler": {"last_epoch": 3, "_last_lr": [np.float64(1e-4)]}}
    trainer = {"iteration": 3, "optimizer": optimizer, "hooks": hooks, "grad_scaler": {"scale": 65536.0}}
    torch.save({"model": state, "trainer": trainer, "iteration": 3}, folder / "model_final.pth")


def write_initial(folder: Path) -> None:
    """What a segmenter training starts from: the zoo's pickle of arrays, and a checkpoint trained on other videos."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = published_state(build_model("ctvis", TINY.segmenter, TINY.video))
    other = {name: tensor for name, tensor in state.items() if "class_embed" not in name}
    torch.save({"model": other}, folder / "ctvis_r50_vspw.pth")
    arrays = {name: tensor.numpy() for name, tensor in other.items() if "reid_embed" not in name}
    (folder / "mask2former_r50.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "MaskFormer"}))


def llava_config() -> dict[str, Any]:
    """config.json of LLaVA 1.5; nothing in it is ours."""
    sizes = LANGUAGE_SIZES
    return {
        "_name_or_path": "llava-v1.5-7b", "architectures": ["LlavaLlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "freeze_mm_mlp_adapter": False, "hidden_act": "silu", "hidden_size": sizes.width,
        "image_aspect_ratio": "pad", "initializer_range": 0.02, "intermediate_size": sizes.mlp,
        "max_position_embeddings": sizes.positions, "mm_hidden_size": SIZES.vision.width,
        "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": VISION, "model_type": "llava", "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers, "num_key_value_heads": sizes.heads, "pad_token_id": 0,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.31.0", "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": False, "use_cache": True, "use_mm_proj": True, "vocab_size": sizes.vocabulary,
    }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def _model(seed: int) -> MM2SG:
    torch.manual_seed(seed)
    return MM2SG(SIZES).eval()


def _saved(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    stored = {name: t.detach().bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    torch.save({name: tensor.clone() for name, tensor in stored.items()}, buffer)
    return buffer.getvalue()
