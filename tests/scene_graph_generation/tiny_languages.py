"""Language models of three families at toy size, in folders as the model hub has them: weights, tokenizer, template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from operating_room.domain.domain import mmor
from operating_room.graphs.prompts import human_prompt

_SIZES = {
    "vocab_size": 420,  # more than the tokenizer has, as those of Qwen
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama3": {
        **_SIZES,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        "tie_word_embeddings": False,
    },
    "qwen3": {
        **_SIZES,
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 32,  # heads together are wider than the model
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
    },
    "mistral": {
        **_SIZES,
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 8,
        "rope_theta": 10000.0,
    },
}
ENDS = {  # what ends an answer when it is learnt, then what else does when it is generated
    "llama3": ("<|eot_id|>", "<|end_of_text|>"),
    "qwen3": ("<|im_end|>", "<|endoftext|>"),
    "mistral": ("</s>",),
}
SPECIAL = {
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    "qwen3": ("<|im_start|>",),
    "mistral": ("<s>", "[INST]", "[/INST]"),
}
TEMPLATES = {
    "llama3": (
        "{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}. {% for turn in messages %}"
        "<|start_header_id|>{{ turn['role'] }}<|end_header_id|>\n\n{{ turn['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "qwen3": (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for turn in messages %}{% if turn.role != 'user' %}{{ raise_exception('no') }}{% endif %}"
        "[INST] {{ turn.content }} [/INST]{% endfor %}"
    ),
}
CONVERSATIONS = {  # what the templates make of `<image>\nwhat?`
    "llama3": (
        "<|begin_of_text|>Today: 26 Jul 2024. <|start_header_id|>user<|end_header_id|>\n\n<image>\nwhat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen3": "<|im_start|>user\n<image>\nwhat?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "mistral": "<s>[INST] <image>\nwhat? [/INST]",
}


def write_language(folder: Path, family: str) -> Path:
    """A folder as the hub has it, with random weights in 32 bits."""
    folder.mkdir(parents=True)
    values = CONFIGS[family]
    torch.manual_seed(0)
    sizes = {name: value for name, value in values.items() if name not in ("model_type", "architectures")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values["model_type"], **sizes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # the initialisation is too tame to tell outputs apart
            parameter.copy_(torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 1.0))
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(family)
    tokenizer.save(str(folder / "tokenizer.json"))
    end, *more = ENDS[family]
    named = {"eos_token": end if family == "qwen3" else {"content": end, "lstrip": False}, "model_max_length": 10**30}
    begin = {} if family == "qwen3" else {"bos_token": SPECIAL[family][0]}
    template = {"chat_template": TEMPLATES[family]} if family == "qwen3" else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | begin | template))
    if not template:
        (folder / "chat_template.jinja").write_text(TEMPLATES[family])
    ids = [tokenizer.token_to_id(text) for text in (*more, end)]
    (folder / "config.json").write_text(json.dumps(values | {"eos_token_id": ids[-1]}))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "eos_token_id": ids}))
    return folder


def make_tokenizer(family: str) -> Tokenizer:
    """A byte-level tokenizer with the special tokens of its family; that of Qwen begins no text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([human_prompt(mmor().language, None, None, "hello", None)], trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (*SPECIAL[family], *ENDS[family])]
    )
    if family != "qwen3":
        begin = SPECIAL[family][0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return tokenizer
