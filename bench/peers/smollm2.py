"""The model as every peer loads it, and LoRA as everyone has it here."""

import os
from pathlib import Path

import torch

HOME = Path(os.environ.get("FLEETUNE_PEERS", Path.home() / ".cache/fleetune-peers"))


def load(dtype, quantized=False):
    """`f32` and `amp` hold 32-bit weights, `bf16` bfloat16 ones; `quantized` keeps NF4 blocks, doubly quantised."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = HOME / "models" / ("bf16" if dtype == "bf16" else "f32")
    held = torch.bfloat16 if dtype == "bf16" else torch.float32
    more = {}
    if quantized:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=held,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=held, attn_implementation="sdpa", **more)
    return model, AutoTokenizer.from_pretrained(folder)


def lora(rank):
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
