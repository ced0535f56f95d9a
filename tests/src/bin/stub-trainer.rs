//! A trainer that trains nothing: it reads its order, says what a trainer says, and leaves an adapter of its own behind.
//! What a fleet costs beside training is measured with it.

#[path = "../stub_words.rs"]
mod stub_words;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use stub_words::{CONFIG, FINISHED, STARTED, WEIGHTS_BYTES};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let done = match &args[..] {
        [_, verb, order] if verb == "trainer" => work(Path::new(order)),
        _ => Err(io::Error::other(format!("expected `trainer ORDER`, found {:?}", &args[1..]))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The order names the attempt's folder, so no two adapters are alike.
fn work(order: &Path) -> io::Result<()> {
    let text = fs::read(order)?;
    let mut said = io::stdout().lock();
    said.write_all(STARTED)?;
    said.flush()?;
    let weights: Vec<u8> = text.iter().copied().cycle().take(WEIGHTS_BYTES).collect();
    fs::write("out/adapter_config.json", CONFIG)?;
    fs::write("out/adapter_model.safetensors", weights)?;
    said.write_all(FINISHED)
}
