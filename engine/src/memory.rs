//! How much memory this process holds, and the limit a declared card sets.
