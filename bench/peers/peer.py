"""One run of one peer: prints RESULT and a line of JSON with the keys of `fleetune bench --output json`.

    peer.py --peer trl|dpo|bare|compile --method lora|full|qlora --dtype f32|amp|bf16 --rows ROWS.jsonl ...

Rows are what rows.py writes. `amp` is f32 weights under bfloat16 autocast.
"""

import argparse
import logging
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["trl", "dpo", "bare", "compile"], required=True)
    parser.add_argument("--method", choices=["lora", "full", "qlora"], default="lora")
    parser.add_argument("--dtype", choices=["f32", "amp", "bf16"], default="f32")
    parser.add_argument("--packing", choices=["wrapped", "bfd", "none"], default="wrapped")
    parser.add_argument("--rows", required=True)
    for name, default in (("seq", 512), ("micro-batch", 4), ("rank", 16), ("steps", 5), ("warm", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main():
    args = arguments()
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if args.peer in ("bare", "compile"):
        import loop

        run = loop.run
    else:
        import trainers

        run = trainers.sft if args.peer == "trl" else trainers.dpo
    result = run(args)
    from stopwatch import say

    say(result)


if __name__ == "__main__":
    main()
