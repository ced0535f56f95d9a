"""Writes SmolLM2-135M-Instruct from its GGUF file as folders that transformers loads: f32 and bf16.

    convert.py MODEL.gguf OUT      # OUT/f32, OUT/bf16

The numbers are the file's own, dequantised. Two things that the GGUF format loses are put back: SmolLM's pre-tokenizer
cuts numbers into digits, and the norm's epsilon is 1e-5.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CONFIG = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def tokenizer_of(folder, name):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = CONFIG["max_position_embeddings"]
    return tokenizer


def model_of(folder, name):
    # A model that was loaded from GGUF cannot be saved, so its numbers move to a plain one.
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.load_state_dict({key: value.float() for key, value in source.state_dict().items()})
    model.tie_weights()
    ids = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    return model


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer, model = tokenizer_of(source.parent, source.name), model_of(source.parent, source.name)
    for name, dtype in DTYPES.items():
        model = model.to(dtype)
        model.config.dtype = dtype
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        print(out / name)


if __name__ == "__main__":
    main()
