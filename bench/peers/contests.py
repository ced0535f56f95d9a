"""What is compared: contests, each with runners on one kind of rows.

Every runner does the same work on the same rows in the same order. The flags of ours are those of `fleetune bench`, the
others those of peer.py. Ratios are taken of a contest's first runner, which is one of ours.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runner:
    """One program with its flags."""

    name: str
    flags: tuple
    ours: bool = False
    quick: bool = False


@dataclass(frozen=True)
class Contest:
    """One kind of work."""

    name: str
    title: str
    rows: str
    micro_batch: int
    runners: tuple


def ours(name, *flags, quick=False):
    return Runner(f"fleetune {name}", (*flags, "--set", "train_sampling_strategy=sequential"), ours=True, quick=quick)


def theirs(name, *flags, quick=False):
    return Runner(name, flags, quick=quick)


# Every token of a conversation is learned, as TRL and a bare loop do by default.
PACKED = ("--set", "assistant_only_loss=false", "--set", "packing=true")
WRAPPED = (*PACKED, "--set", "packing_strategy=wrapped")
BF16_MOMENTS = (
    *("--set", "optim=adamw_anyprecision"),
    *("--set", "optim_args=momentum_dtype=bfloat16,variance_dtype=bfloat16"),
)

CONTESTS = [
    Contest(
        "lora",
        "LoRA r=16 on all linear layers, full rows",
        "conversations",
        4,
        (
            ours("bf16", "--method", "lora", "--dtype", "bfloat16", *WRAPPED, quick=True),
            ours("f32", "--method", "lora", "--dtype", "float32", *WRAPPED, quick=True),
            theirs("TRL f32", "--peer", "trl", "--dtype", "f32", quick=True),
            theirs("TRL bf16 autocast", "--peer", "trl", "--dtype", "amp", quick=True),
            theirs("torch + peft f32", "--peer", "bare", "--dtype", "f32"),
            theirs("torch + peft bf16", "--peer", "bare", "--dtype", "bf16", quick=True),
            theirs("torch.compile bf16", "--peer", "compile", "--dtype", "bf16", quick=True),
            # The fastest of them where bf16 is emulated, or no faster than f32.
            theirs("torch.compile f32", "--peer", "compile", "--dtype", "f32"),
        ),
    ),
    Contest(
        "full",
        "Full fine-tuning, full rows",
        "conversations",
        4,
        (
            ours("bf16", "--method", "full", "--dtype", "bfloat16", *WRAPPED, quick=True),
            # Peers in bf16 keep their moments in bf16.
            ours("bf16, bf16 AdamW", "--method", "full", "--dtype", "bfloat16", *WRAPPED, *BF16_MOMENTS, quick=True),
            ours("bf16, 8-bit AdamW", "--method", "full", "--dtype", "bfloat16", *WRAPPED, "--set", "optim=adamw_8bit"),
            ours("f32", "--method", "full", "--dtype", "float32", *WRAPPED),
            theirs("TRL bf16 autocast", "--peer", "trl", "--method", "full", "--dtype", "amp"),
            theirs("torch bf16", "--peer", "bare", "--method", "full", "--dtype", "bf16", quick=True),
            theirs("torch.compile bf16", "--peer", "compile", "--method", "full", "--dtype", "bf16"),
            theirs("torch.compile f32", "--peer", "compile", "--method", "full", "--dtype", "f32"),
        ),
    ),
    Contest(
        "qlora",
        "QLoRA r=16, NF4 doubly quantised, full rows",
        "conversations",
        4,
        (
            ours("nf4", "--method", "qlora", "--dtype", "bfloat16", *WRAPPED),
            ours("bf16 LoRA", "--method", "lora", "--dtype", "bfloat16", *WRAPPED),
            theirs("torch + bitsandbytes bf16", "--peer", "bare", "--method", "qlora", "--dtype", "bf16"),
        ),
    ),
    Contest(
        "dpo",
        "DPO, LoRA r=16, pairs",
        "pairs",
        2,
        (
            ours("bf16", "--method", "dpo", "--dtype", "bfloat16", quick=True),
            ours("f32", "--method", "dpo", "--dtype", "float32"),
            theirs("TRL f32", "--peer", "dpo", "--dtype", "f32"),
            theirs("TRL bf16", "--peer", "dpo", "--dtype", "bf16", quick=True),
        ),
    ),
    Contest(
        "short",
        "LoRA r=16, short rows as they come",
        "conversations",
        4,
        (
            ours("bf16, packed", "--method", "lora", "--dtype", "bfloat16", *PACKED),
            theirs("TRL bf16 autocast, not packed", "--peer", "trl", "--dtype", "amp", "--packing", "none"),
            theirs("TRL bf16 autocast, packed", "--peer", "trl", "--dtype", "amp", "--packing", "bfd"),
        ),
    ),
]
