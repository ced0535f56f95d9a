"""Reads GGUF files made by `fleetune export` with llama.cpp's own package.

    python3 read_gguf.py MODEL.gguf ADAPTER.gguf BASE LOGITS

BASE is the folder the model was made from; LOGITS a safetensors file with `input_ids` [tokens]. The model is loaded by
transformers from the file and from the folder, and both must say the same. Exits 1 when any logit differs by more
than 1e-4 or a tensor is missing.
"""

import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def main(model, adapter, base, logits):
    reader = GGUFReader(model)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    print(f"{model}: {fields['general.architecture']}, {len(reader.tensors)} tensors, {len(fields)} keys")
    for key in ["general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"]:
        if key not in fields:
            sys.exit(f"no key {key}")
    ids = load_file(logits)["input_ids"].long()[None]
    said = []
    for name in [None, Path(model).name]:
        folder = base if name is None else str(Path(model).parent)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        with torch.no_grad():
            said.append(loaded.eval()(ids).logits[0])
    difference = (said[0] - said[1]).abs().max().item()
    print(f"largest difference of a logit: {difference:.2e} (allowed {TOLERANCE:.0e})")
    if not difference <= TOLERANCE:
        sys.exit(1)
    reader = GGUFReader(adapter)
    names = [tensor.name for tensor in reader.tensors]
    kind = [reader.fields[key].contents() for key in ["general.type", "adapter.type", "adapter.lora.alpha"]]
    print(f"{adapter}: {kind}, {len(names)} tensors")
    if kind[:2] != ["adapter", "lora"] or not all(n.endswith((".lora_a", ".lora_b")) for n in names):
        sys.exit("not laid out as an adapter")


if __name__ == "__main__":
    main(*sys.argv[1:])
