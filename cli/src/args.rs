//! What may stand on the command line.

use clap::{Args, Parser};

use crate::commands::Command;
use crate::output::Mode;

/// Distributed fine-tuning for a lab's spare GPUs.
///
/// Start with `fleetune demo`, then `fleetune up` on one machine, or `fleetune coordinator` and `fleetune agent` on
/// several.
#[derive(Debug, Parser)]
#[command(name = "fleetune", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How results are printed on stdout
    #[arg(
        long,
        global = true,
        env = "FLEETUNE_OUTPUT",
        default_value = "table",
        value_name = "MODE",
        help_heading = "Global options"
    )]
    pub(crate) output: Mode,
    /// The coordinator to talk to
    #[arg(
        long,
        global = true,
        env = "FLEETUNE_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_name = "ADDRESS",
        help_heading = "Global options"
    )]
    pub(crate) coordinator: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_read_as_people_write_them() {
        for line in [
            "demo --keep",
            "up --device cpu --vram 10GiB --card RTX3080",
            "agent --join http://10.0.0.5:7070",
            "agent --join 10.0.0.5:7070 --max-jobs-per-card 2 --label night",
            "agent drain bench-3 --undo",
            "train r.yaml --out out --resume latest",
            "train r.yaml --preview 2",
            "submit r.yaml --wait --priority -3 --output json",
            "submit r.yaml --user ann --card 4000 --label night --label nvme",
            "sweep r.yaml --wait",
            "sweep show tone",
            "jobs --all --phase queued --phase running",
            "job show 3-5 last",
            "job logs last -f",
            "estimate r.yaml --vram 10GiB",
            "adapters",
            "adapters pull last --out my-adapter",
            "merge --base base --adapter a --out merged",
            "merge --base base --adapter a --out merged --allow-other-base",
            "merge --job last --wait",
            "merge --base b --adapter a --out o --onto dequantized-4bit --bnb-4bit-quant-type fp4",
            "merge-models merge.yaml --out merged --no-compare",
            "adapters combine a b --weights 0.5,-0.5 --method ties --density 0.5 --out c",
            "export model --gguf model.gguf --type q8_0",
            "export adapter --base model --gguf adapter.gguf",
            "generate --model m What is this?",
            "bench --model m --method dpo --seq 512 --micro-batch 2 --dtype bfloat16 --set beta=0.2",
        ] {
            let words = std::iter::once("fleetune").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in [
            "train r.yaml",
            "merge --base base",
            "merge --job 3 --base base",
            "merge --job 3 --allow-other-base",
            "merge --base b --adapter a --out o --wait",
            "sweep",
            "merge --job 3 --onto float32",
            "adapters combine a --out c",
            "adapters combine a b --method mean --out c",
            "export model --gguf m.gguf --type q9",
            "sweep show",
            "job show",
            "job show x",
            "jobs --phase asleep",
            "agent drain ../x",
            "agent --join 10.0.0.5:7070 --max-jobs-per-card 0",
            "generate --model m",
            "bench --method lora",
            "bench --model m --steps 0",
            "up --vram 10",
        ] {
            let words = std::iter::once("fleetune").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
