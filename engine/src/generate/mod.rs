//! Answers: greedy or sampled, with a KV cache.
