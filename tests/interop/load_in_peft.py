"""Opens an adapter made by Fleetune in PEFT and compares logits.

    python3 load_in_peft.py BASE ADAPTER LOGITS

BASE and ADAPTER are folders; LOGITS is a safetensors file that `fleetune` wrote for the same base and adapter, with
`input_ids` [tokens] and `logits` [tokens, vocab]. Exits 1 when any logit differs by more than 1e-4.
"""

import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def main(base, adapter, logits):
    ours = load_file(logits)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    ids = ours["input_ids"].long()[None]
    with torch.no_grad():
        plain = model(ids).logits[0]
        model = PeftModel.from_pretrained(model, adapter).eval()
        theirs = model(ids).logits[0]
    difference = (theirs - ours["logits"]).abs().max().item()
    moved = (theirs - plain).abs().max().item()
    print(f"largest difference of a logit: {difference:.2e} (allowed {TOLERANCE:.0e}); the adapter moves them by {moved:.2e}")
    if moved < 10 * TOLERANCE:
        sys.exit("the adapter changes nothing: this comparison shows nothing")
    if not difference <= TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
