//! A trainer that trains nothing: it reads its order, says what a trainer says, and leaves an adapter of its own behind.
//! What a fleet costs beside training is measured with it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// As small as adapters get.
const WEIGHTS_BYTES: usize = 4096;

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
    said.write_all(b"{\"event\":\"started\",\"step\":0,\"steps_total\":1}\n")?;
    said.flush()?;
    let weights: Vec<u8> = text.iter().copied().cycle().take(WEIGHTS_BYTES).collect();
    fs::write("out/adapter_config.json", "{\"peft_type\":\"LORA\",\"r\":4}\n")?;
    fs::write("out/adapter_model.safetensors", weights)?;
    said.write_all(
        b"{\"event\":\"step\",\"step\":1,\"loss\":1.5,\"grad_norm\":1.0,\"learning_rate\":0.1,\
          \"supervised_tokens\":4,\"tokens_per_second\":9.0,\"epoch\":1.0}\n\
          {\"event\":\"finished\",\"summary\":{\"steps\":1}}\n",
    )
}
