"""Opens adapters made by Fleetune in PEFT and compares logits.

    python3 load_in_peft.py BASE FOLDER

FOLDER holds one folder for each kind of adapter, with `adapter/` and `logits.safetensors`: what `fleetune` says with it
(`input_ids` [tokens], `logits` [tokens, vocab]). Exits 1 when any logit differs by more than 1e-4.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def compare(base, kind):
    ours = load_file(kind / "logits.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    ids = ours["input_ids"].long()[None]
    with torch.no_grad():
        plain = model(ids).logits[0]
        model = PeftModel.from_pretrained(model, kind / "adapter").eval()
        theirs = model(ids).logits[0]
    difference = (theirs - ours["logits"]).abs().max().item()
    moved = (theirs - plain).abs().max().item()
    print(f"{kind.name}: largest difference of a logit {difference:.2e} (allowed {TOLERANCE:.0e}); the adapter moves them by {moved:.2e}")
    if moved < 10 * TOLERANCE:
        sys.exit("the adapter changes nothing: this comparison shows nothing")
    return difference <= TOLERANCE


def main(base, folder):
    same = [compare(base, kind) for kind in sorted(Path(folder).iterdir()) if kind.is_dir()]
    if not same or not all(same):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
