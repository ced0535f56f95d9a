//! The model against the peers' numbers, against autograd, and against damaged files.

mod adapter;
mod dropout;
mod gguf;
mod graded;
mod gradients;
mod loading;
mod oracle;
mod packed;
mod pairs;
mod parity;
mod smollm2;

#[path = "../places/mod.rs"]
mod places;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fleetune_engine::data::{MicroBatch, Row};

/// A file or folder of `tests/fixtures`.
fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

fn tensors(path: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(path), &Device::Cpu).unwrap()
}

/// Rows of a right-padded batch as transformers lays them, without the padding.
fn rows(tensors: &HashMap<String, Tensor>, suffix: &str) -> Vec<Row> {
    let read = |name: &str| tensors[&format!("{name}{suffix}")].to_vec2::<i64>().unwrap();
    let (ids, labels, mask) = (read("input_ids"), read("labels"), read("attention_mask"));
    ids.iter()
        .zip(&labels)
        .zip(&mask)
        .map(|((ids, labels), mask)| {
            let length = mask.iter().filter(|m| **m == 1).count();
            Row {
                input_ids: ids[..length].iter().map(|id| *id as u32).collect(),
                labels: labels[..length].to_vec(),
            }
        })
        .collect()
}

fn batch(rows: &[Row]) -> MicroBatch {
    MicroBatch::of(&rows.iter().collect::<Vec<_>>())
}

fn max_abs(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    let flat = difference.abs().unwrap().flatten_all().unwrap();
    flat.max(0).unwrap().to_scalar().unwrap()
}

/// Norm of the difference over the norm of `expected`.
fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) =
        (found.to_dtype(DType::F64).unwrap(), expected.to_dtype(DType::F64).unwrap());
    norm(&(found - &expected).unwrap()) / norm(&expected)
}

fn norm(x: &Tensor) -> f64 {
    let x = x.to_dtype(DType::F64).unwrap();
    x.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
}
