//! Five steps of the peers' optimizers (`tests/fixtures/make_optim.py`), for the tests of this room.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

/// The tensor `name`; codes as u8, everything else as f32.
pub(super) fn tensor(name: &str) -> Tensor {
    static BYTES: &[u8] = include_bytes!("../../../tests/fixtures/optim.safetensors");
    let mut all: HashMap<String, Tensor> =
        candle_core::safetensors::load_buffer(BYTES, &Device::Cpu).unwrap();
    all.remove(name).unwrap_or_else(|| panic!("no {name} in the fixture"))
}

/// Its numbers.
pub(super) fn numbers(name: &str) -> Vec<f32> {
    let tensor = tensor(name).to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
