//! Leaf operations, each with a forward and a hand-written backward pass.
