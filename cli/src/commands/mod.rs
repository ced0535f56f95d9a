//! One file per verb.

mod adapters;
mod agent;
mod agents;
mod bench;
mod combine;
mod completions;
mod coordinator;
mod demo;
mod device;
mod estimate;
mod export;
mod generate;
mod history;
mod job;
mod jobs;
mod merge;
mod merge_models;
mod method;
mod owner;
mod preview;
mod schema;
mod selftest;
mod submit;
mod sweep;
mod top;
mod train;
mod trainer;
mod up;

use clap::Subcommand;

use crate::Failure;
use crate::context::{Context, block_on, block_on_to_the_end};

/// Every verb.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch a small fleet train, store, merge and answer, on this machine alone
    Demo(demo::Demo),
    /// Run a coordinator and an agent on this machine
    Up(up::Up),
    /// Run a coordinator
    Coordinator(coordinator::Coordinator),
    /// Lend this machine's card to a fleet; pause, resume or drain an agent
    Agent(agent::Agent),
    /// Train a recipe here and now, without a fleet
    Train(train::Train),
    /// Send a recipe to the fleet
    Submit(submit::Submit),
    /// Send one job per combination of a recipe's `sweep`
    Sweep(sweep::Sweep),
    /// List jobs
    Jobs(jobs::Jobs),
    /// Look at a job, read its log, cancel it, ask why it waits
    #[command(subcommand)]
    Job(job::Job),
    /// List agents and their cards
    Agents(agents::Agents),
    /// Watch the fleet live
    Top(top::Top),
    /// Say how much memory a recipe needs and which cards would do
    Estimate(estimate::Estimate),
    /// List, fetch, inspect and combine adapters
    Adapters(adapters::Adapters),
    /// Merge an adapter into its base
    Merge(merge::Merge),
    /// Merge whole models into one
    MergeModels(merge_models::MergeModels),
    /// Write a model or an adapter as a GGUF file
    Export(export::Export),
    /// Let a model answer
    Generate(generate::Generate),
    /// Time whole training steps of a model
    Bench(bench::Bench),
    /// Hold every operation of this machine's arithmetic against its reference, and time it
    Selftest(selftest::Selftest),
    /// Print the recipe's JSON Schema
    Schema(schema::Schema),
    /// Print a script that completes commands in a shell
    Completions(completions::Completions),
    /// Run one attempt; agents start this
    #[command(hide = true)]
    Trainer(trainer::Trainer),
}

impl Command {
    /// Whether the verb reads models, adapters, data or recipes in its own process. Those may be anybody's, so it runs
    /// in a child with limits; the rest talk to a fleet, or start processes of their own.
    pub(crate) fn reads_files(&self) -> bool {
        matches!(
            self,
            Self::Train(_)
                | Self::Submit(_)
                | Self::Sweep(_)
                | Self::Estimate(_)
                | Self::Bench(_)
                | Self::Adapters(_)
                | Self::Merge(_)
                | Self::MergeModels(_)
                | Self::Export(_)
                | Self::Generate(_)
        )
    }
}

/// Runs a verb.
pub(crate) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Demo(verb) => verb.run(context),
        Command::Up(verb) => verb.run(context),
        Command::Coordinator(verb) => verb.run(context),
        Command::Agent(verb) => verb.run(context),
        Command::Train(verb) => verb.run(context),
        Command::Submit(verb) => block_on_to_the_end(verb.run(context)),
        Command::Sweep(verb) => block_on_to_the_end(verb.run(context)),
        Command::Jobs(verb) => block_on(verb.run(context)),
        Command::Job(verb) => block_on(verb.run(context)),
        Command::Agents(verb) => block_on(verb.run(context)),
        Command::Top(verb) => block_on_to_the_end(verb.run(context)),
        Command::Estimate(verb) => verb.run(context),
        Command::Adapters(verb) => block_on(verb.run(context)),
        Command::Merge(verb) => verb.run(context),
        Command::MergeModels(verb) => verb.run(context),
        Command::Export(verb) => verb.run(context),
        Command::Generate(verb) => verb.run(context),
        Command::Bench(verb) => verb.run(context),
        Command::Selftest(verb) => verb.run(context),
        Command::Schema(verb) => verb.run(context),
        Command::Completions(verb) => verb.run(context),
        Command::Trainer(verb) => verb.run(),
    }
}
