//! The decoder: weights, blocks, the forward pass and the layer-by-layer backward pass.
