//! How fast data becomes tokens, and what it holds in memory meanwhile.
//!
//! ```sh
//! cargo run --release -p fleetune-engine --example tokenise -- MODEL CACHE FILE...
//! ```
//!
//! Run it twice: the second run finds the tokens in the folder `CACHE`.

use std::path::PathBuf;
use std::time::Instant;

use fleetune_engine::data::{Datasets, Tokenizer};
use fleetune_engine::{memory, model};
use fleetune_shared::{DataFiles, Recipe};

#[global_allocator]
static METER: memory::Meter = memory::Meter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(path), Some(cache)) = (arguments.next(), arguments.next()) else {
        return Err("expected a model, a folder and files".into());
    };
    let files = DataFiles { sets: vec![arguments.collect()], held_out: vec![], cache: Some(cache) };
    let recipe = Recipe::read("model_name_or_path: m\ndataset_name: d\nover_length: truncate")?;
    let spec = model::spec_of(&path)?;
    let tokenizer = Tokenizer::for_rows(&path, &recipe.data)?;
    let begun = Instant::now();
    let before = memory::current();
    let data = Datasets::load(&files, &recipe.data, tokenizer.as_ref(), &spec, 0)?.train;
    let seconds = begun.elapsed().as_secs_f64();
    let stats = data.stats;
    eprintln!(
        "{} rows, {} tokens in {seconds:.1} s: {:.0} tokens/s; held {before} before, {} after, {} at most",
        stats.rows,
        stats.tokens,
        stats.tokens as f64 / seconds,
        memory::current(),
        memory::peak(),
    );
    Ok(())
}
