"""TRL's trainers, SFTTrainer and DPOTrainer, as users run them."""

import rows
import smollm2
from stopwatch import Stopwatch


def common(args):
    """Keys that both configurations have. Without gradient checkpointing, which TRL turns on by default, it is faster."""
    return {
        "output_dir": str(smollm2.HOME / "out"),
        "per_device_train_batch_size": args.micro_batch,
        "max_length": args.seq,
        "gradient_checkpointing": False,
        "bf16": args.dtype == "amp",
        "use_cpu": True,
        "max_steps": args.steps + args.warm,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "seed": 0,
        "disable_tqdm": True,
    }


def callback(watch):
    from transformers import TrainerCallback

    class Laps(TrainerCallback):
        def on_step_begin(self, *_, **__):
            if not watch.ends:
                watch.begin()

        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = watch.lap()

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in (logs or {}):
                watch.losses.append(logs["loss"])

    return Laps()


def counting(trainer, watch):
    """Notes the tokens of every batch that the trainer computes a loss of, padding left out."""
    compute = trainer.compute_loss

    def counted(model, inputs, *args, **kwargs):
        mask = inputs.get("attention_mask")
        watch.tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted


def run(trainer, watch):
    counting(trainer, watch)
    trainer.train()
    return watch.result(trainable_parameters=smollm2.trained(trainer.model))


def sft(args):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    watch = Stopwatch(args.steps, args.warm)
    model, tokenizer = smollm2.load(args.dtype)
    packing = {} if args.packing == "none" else {"packing": True, "packing_strategy": args.packing}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(learning_rate=2e-5, **packing, **common(args)),
        train_dataset=Dataset.from_list(rows.records(args.rows)),
        processing_class=tokenizer,
        peft_config=smollm2.lora(args.rank) if args.method == "lora" else None,
        callbacks=[callback(watch)],
    )
    return run(trainer, watch)


def dpo(args):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    watch = Stopwatch(args.steps, args.warm)
    model, tokenizer = smollm2.load(args.dtype)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(learning_rate=5e-6, **common(args)),
        train_dataset=Dataset.from_list(rows.records(args.rows)),
        processing_class=tokenizer,
        peft_config=smollm2.lora(args.rank),
        callbacks=[callback(watch)],
    )
    return run(trainer, watch)
