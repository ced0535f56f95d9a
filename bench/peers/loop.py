"""A bare loop over transformers and peft: no trainer between the model and fused AdamW, torch.compile if asked for."""

import contextlib

import torch

import rows
import smollm2
from stopwatch import Stopwatch

LEARNING_RATE = 2e-5


def batches(tokenizer, args):
    """Full rows of `seq` tokens, one conversation after the other, as TRL's `wrapped` packing."""
    count = args.micro_batch * (args.steps + args.warm)
    tokens = []
    for row in rows.repeated(rows.records(args.rows), 1_000_000):
        tokens += tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)["input_ids"]
        if len(tokens) >= count * args.seq:
            break
    return torch.tensor(tokens[: count * args.seq]).view(-1, args.micro_batch, args.seq)


def run(args):
    torch.manual_seed(0)
    watch = Stopwatch(args.steps, args.warm)
    model, tokenizer = smollm2.load(args.dtype, quantized=args.method == "qlora")
    model.config.use_cache = False
    if args.method != "full":
        from peft import get_peft_model

        model = get_peft_model(model, smollm2.lora(args.rank))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if args.peer == "compile" else model
    steps = batches(tokenizer, args)
    watch.begin()
    for batch in steps:
        precision = torch.autocast("cpu", torch.bfloat16) if args.dtype == "amp" else contextlib.nullcontext()
        with precision:
            loss = forward(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.losses.append(loss.item())
        watch.tokens.append(batch.numel())
        watch.lap()
    return watch.result(trainable_parameters=smollm2.trained(model))
