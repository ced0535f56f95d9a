//! LoRA beside frozen linear layers, and PEFT's on-disk format.
