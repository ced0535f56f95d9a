//! Published shapes by name, so that nothing has to be fetched to size a model that everybody knows. Each row is what
//! that model's own `config.json` says.

use serde_json::json;

/// Name, `model_type`, hidden_size, intermediate_size, layers, heads, key-value heads, head_dim, vocab_size, whether the
/// head is the embedding, max_position_embeddings.
type Row = (&'static str, &'static str, u64, u64, u64, u64, u64, u64, u64, bool, u64);

#[rustfmt::skip]
const KNOWN: &[Row] = &[
    ("smollm2-135m", "llama", 576, 1536, 30, 9, 3, 64, 49152, true, 8192),
    ("smollm2-360m", "llama", 960, 2560, 32, 15, 5, 64, 49152, true, 8192),
    ("smollm2-1.7b", "llama", 2048, 8192, 24, 32, 32, 64, 49152, true, 8192),
    ("tinyllama-1.1b", "llama", 2048, 5632, 22, 32, 4, 64, 32000, false, 2048),
    ("llama-2-7b", "llama", 4096, 11008, 32, 32, 32, 128, 32000, false, 4096),
    ("llama-2-13b", "llama", 5120, 13824, 40, 40, 40, 128, 32000, false, 4096),
    ("llama-2-70b", "llama", 8192, 28672, 80, 64, 8, 128, 32000, false, 4096),
    ("llama-3-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128_256, false, 8192),
    ("llama-3.1-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128_256, false, 131_072),
    ("llama-3.1-70b", "llama", 8192, 28672, 80, 64, 8, 128, 128_256, false, 131_072),
    ("llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128_256, true, 131_072),
    ("llama-3.2-3b", "llama", 3072, 8192, 28, 24, 8, 128, 128_256, true, 131_072),
    ("mistral-7b", "mistral", 4096, 14336, 32, 32, 8, 128, 32000, false, 32768),
    ("mixtral-8x7b", "mixtral", 4096, 14336, 32, 32, 8, 128, 32000, false, 32768),
    ("qwen-1.8b", "qwen", 2048, 11008, 24, 16, 16, 128, 151_936, false, 8192),
    ("qwen-7b", "qwen", 4096, 22016, 32, 32, 32, 128, 151_936, false, 32768),
    ("qwen-14b", "qwen", 5120, 27392, 40, 40, 40, 128, 152_064, false, 8192),
    ("qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 64, 151_936, true, 32768),
    ("qwen2.5-1.5b", "qwen2", 1536, 8960, 28, 12, 2, 128, 151_936, true, 32768),
    ("qwen2.5-3b", "qwen2", 2048, 11008, 36, 16, 2, 128, 151_936, true, 32768),
    ("qwen2.5-7b", "qwen2", 3584, 18944, 28, 28, 4, 128, 152_064, false, 32768),
    ("qwen2.5-14b", "qwen2", 5120, 13824, 48, 40, 8, 128, 152_064, false, 32768),
    ("qwen2.5-32b", "qwen2", 5120, 27648, 64, 40, 8, 128, 152_064, false, 32768),
    ("qwen2.5-72b", "qwen2", 8192, 29568, 80, 64, 8, 128, 152_064, false, 32768),
    ("qwen3-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 128, 151_936, true, 40960),
    ("qwen3-1.7b", "qwen3", 2048, 6144, 28, 16, 8, 128, 151_936, true, 40960),
    ("qwen3-4b", "qwen3", 2560, 9728, 36, 32, 8, 128, 151_936, true, 40960),
    ("qwen3-8b", "qwen3", 4096, 12288, 36, 32, 8, 128, 151_936, false, 40960),
    ("qwen3-14b", "qwen3", 5120, 17408, 40, 40, 8, 128, 151_936, false, 40960),
    ("qwen3-32b", "qwen3", 5120, 25600, 64, 64, 8, 128, 151_936, false, 40960),
    ("gemma-2b", "gemma", 2048, 16384, 18, 8, 1, 256, 256_000, true, 8192),
    ("gemma-7b", "gemma", 3072, 24576, 28, 16, 16, 256, 256_000, true, 8192),
    ("gemma-2-2b", "gemma2", 2304, 9216, 26, 8, 4, 256, 256_000, true, 8192),
    ("gemma-2-9b", "gemma2", 3584, 14336, 42, 16, 8, 256, 256_000, true, 8192),
    ("gemma-2-27b", "gemma2", 4608, 36864, 46, 32, 16, 128, 256_000, true, 8192),
    ("gemma-3-1b", "gemma3_text", 1152, 6912, 26, 4, 1, 256, 262_144, true, 32768),
    ("phi-1.5", "phi", 2048, 8192, 24, 32, 32, 64, 51200, false, 2048),
    ("phi-2", "phi", 2560, 10240, 32, 32, 32, 80, 51200, false, 2048),
    ("phi-3-mini", "phi3", 3072, 8192, 32, 32, 32, 96, 32064, false, 4096),
    ("phi-4", "phi3", 5120, 17920, 40, 40, 10, 128, 100_352, false, 16384),
    ("pythia-410m", "gpt_neox", 1024, 4096, 24, 16, 16, 64, 50304, false, 2048),
    ("pythia-1.4b", "gpt_neox", 2048, 8192, 24, 16, 16, 128, 50304, false, 2048),
    ("pythia-2.8b", "gpt_neox", 2560, 10240, 32, 32, 32, 80, 50304, false, 2048),
    ("pythia-6.9b", "gpt_neox", 4096, 16384, 32, 32, 32, 128, 50432, false, 2048),
    ("falcon-7b", "falcon", 4544, 18176, 32, 71, 1, 64, 65024, true, 2048),
    ("gpt2", "gpt2", 768, 3072, 12, 12, 12, 64, 50257, true, 1024),
];

/// The `config.json` of a published model, by its name however it is written: `meta-llama/Llama-3.2-1B-Instruct` is
/// `llama-3.2-1b`. `None` for a name that is not in the table.
#[must_use]
pub fn known_config(name: &str) -> Option<String> {
    let wanted = plain(name);
    let row = KNOWN.iter().find(|row| key(row.0) == wanted)?;
    let (_, model_type, hidden, mlp, layers, heads, kv, head_dim, vocab, tied, positions) = *row;
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
    });
    if model_type == "mixtral" {
        config["num_local_experts"] = json!(8);
        config["num_experts_per_tok"] = json!(2);
    }
    Some(config.to_string())
}

/// The names of [`known_config`], in the table's order.
pub fn known_models() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|row| row.0)
}

/// Letters, digits and dots, which tell `1.8b` from `18b`.
fn key(name: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || *c == '.';
    name.to_ascii_lowercase().chars().filter(kept).collect()
}

/// Without the owner, and without what a name says of training rather than of shape.
fn plain(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let told =
        ["hf", "instruct", "chat", "base", "it", "pt", "4k", "bnb", "4bit", "unsloth", "meta"];
    let version = |word: &str| {
        word.strip_prefix('v').is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
    };
    let words = name.split(['-', '_', ' ']).filter(|word| !told.contains(word) && !version(word));
    key(&words.collect::<String>())
}
