//! What stub trainers say and leave behind, with or without a C library.

/// At once, as a line.
pub(super) const STARTED: &[u8] = b"{\"event\":\"started\",\"step\":0,\"steps_total\":1}\n";
/// In the end, as lines.
pub(super) const FINISHED: &[u8] =
    b"{\"event\":\"step\",\"step\":1,\"loss\":1.5,\"grad_norm\":1.0,\"learning_rate\":0.1,\
      \"supervised_tokens\":4,\"tokens_per_second\":9.0,\"epoch\":1.0}\n\
      {\"event\":\"finished\",\"summary\":{\"steps\":1}}\n";

/// `adapter_config.json`.
pub(super) const CONFIG: &[u8] = b"{\"peft_type\":\"LORA\",\"r\":4}\n";
/// Of `adapter_model.safetensors`: as small as adapters get.
pub(super) const WEIGHTS_BYTES: usize = 4096;
