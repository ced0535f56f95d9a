"""Trains adapters of every kind in PEFT and writes what they say.

    python3 make_in_peft.py BASE OUT

BASE is a model folder. OUT gets a folder KIND for each kind, with `adapter/` as PEFT saves it and `logits.safetensors`
with `input_ids` [tokens] and `logits` [tokens, vocab], for Fleetune to open.
"""

import sys
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS = 8


def lora(**keys):
    return LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": LINEARS, "task_type": "CAUSAL_LM", **keys})


KINDS = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "ia3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "patterns": lora(r=4, rank_pattern={"down_proj": 16}, alpha_pattern={r"layers\.1\..*q_proj": 3}),
    "modules_to_save": lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "head": lora(target_modules=["lm_head", "q_proj"]),
    "regex": lora(target_modules=r".*\.1\..*(q|v)_proj"),
    "excluded": lora(target_modules="all-linear", exclude_modules=["o_proj"]),
    "some_blocks": lora(target_modules=["q_proj"], layers_to_transform=[1]),
    "gaussian": lora(init_lora_weights="gaussian"),
    "bias": lora(lora_bias=True, target_modules=["q_proj"]),
}


def main(base, out):
    for kind, config in KINDS.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        model = get_peft_model(model, config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        ids = torch.randint(3, model.config.vocab_size, (4, 24))
        for _ in range(STEPS):
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        folder = Path(out) / kind
        model.save_pretrained(folder / "adapter")
        with torch.no_grad():
            logits = model.eval()(ids[:1]).logits[0]
        save_file({"input_ids": ids[0].contiguous(), "logits": logits.contiguous()}, folder / "logits.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
