//! The backend as a GPU has it, its kernels run on the CPU, against the portable operations.

mod host;

use std::path::Path;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};

pub(crate) use self::host::host;
use self::host::without;
use super::launch::Arg;
use super::source::SOURCE;
use crate::ops::{Backend, Portable};
use crate::selftest::{self, Size};

/// Sides below, at and beyond those of warps and blocks.
fn sizes() -> [Size; 3] {
    let even = Size {
        tokens: 64,
        hidden: 256,
        inner: 64,
        heads: 2,
        kv_heads: 2,
        head_dim: 32,
        rank: 8,
        vocab: 512,
        labels: 4,
    };
    let least = Size {
        tokens: 8,
        hidden: 1,
        inner: 9,
        heads: 3,
        kv_heads: 1,
        head_dim: 2,
        rank: 1,
        vocab: 2,
        labels: 1,
    };
    [Size::odd(), even, least]
}

#[test]
fn every_operation_is_its_portable_twin() {
    let Some(cuda) = host() else { return };
    for size in sizes() {
        for report in selftest::run(&cuda, &size, Duration::ZERO).unwrap() {
            assert!(report.passed(), "{report:?} at {size:?}");
        }
    }
}

#[test]
fn a_launch_that_a_card_would_take_wrongly_is_refused() {
    let Some(cuda) = host() else { return };
    let refused = |args: &[Arg<'_>], text: &str| {
        let error = cuda.card().launch("half_a_barrier", 1, args).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(&[Arg::U32(0)], "in vain");
    refused(&[Arg::U64(0)], "of another size");
    refused(&[Arg::U32(0), Arg::U32(0)], "another number of arguments");
    // And the next one runs.
    let sum = cuda.card().upload(&[1.0_f32, 2.0]).unwrap();
    cuda.add(&sum, &cuda.card().upload(&[10.0_f32, 20.0]).unwrap()).unwrap();
    assert_eq!(sum.to_vec1::<f32>().unwrap(), [11.0, 22.0]);
}

/// Kernels that the operations of a backend do not need; theirs are the tests of `quant` and `optim`.
const ELSEWHERE: [&str; 8] = [
    "adamw",
    "adamw_bf16",
    "adamw8",
    "adamw8_bf16",
    "four_bit_f32",
    "four_bit_bf16",
    "four_bit_double_f32",
    "four_bit_double_bf16",
];

/// The names of all kernels, from their source.
fn kernels() -> Vec<&'static str> {
    let after = |text: &'static str| text.split('(').next().unwrap();
    SOURCE.split("extern \"C\" __global__ void ").skip(1).map(after).collect()
}

#[test]
fn a_kernel_that_does_nothing_is_found_out() {
    if host().is_none() {
        return;
    }
    // Few tokens: every kernel costs a whole self-test.
    let size = Size { tokens: 9, ..Size::odd() };
    let kernels = kernels();
    assert!(kernels.len() > 30 && ELSEWHERE.iter().all(|kernel| kernels.contains(kernel)));
    for kernel in kernels.into_iter().filter(|kernel| !ELSEWHERE.contains(kernel)) {
        let lame = without(kernel).unwrap();
        let reports = selftest::run(&lame, &size, Duration::ZERO).unwrap();
        assert!(!reports.iter().all(selftest::Report::passed), "nobody missed {kernel}");
    }
}

#[test]
fn every_file_is_compiled_everywhere() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let host = std::fs::read_to_string(folder.join("host/kernels.cpp")).unwrap();
    for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "cu") {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            assert!(SOURCE.contains(&text), "source.rs lacks {name}");
            assert!(host.contains(&format!("#include \"../{name}\"")), "kernels.cpp lacks {name}");
        }
    }
}

#[test]
fn a_weight_in_bf16_is_multiplied_in_bf16() {
    let Some(cuda) = host() else { return };
    let wave = |rows: usize, width: usize| {
        let numbers: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_vec(numbers, (rows, width), &Device::Cpu).unwrap()
    };
    let (x, dy, w) = (wave(5, 33), wave(5, 17), wave(17, 33).to_dtype(DType::BF16).unwrap());
    let wide = w.to_dtype(DType::F32).unwrap();
    let apart = |a: &Tensor, b: &Tensor| {
        let most = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        most((a - b).unwrap()) / most(b.clone())
    };
    let y = apart(&cuda.project(&x, &w).unwrap(), &Portable.project(&x, &wide).unwrap());
    let dx = apart(&cuda.project_dx(&dy, &w).unwrap(), &Portable.project_dx(&dy, &wide).unwrap());
    assert!(0.0 < y && y < 1e-2 && 0.0 < dx && dx < 1e-2, "{y}, {dx}");
}

#[test]
fn what_would_be_read_beyond_its_end_is_refused() {
    let Some(cuda) = host() else { return };
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let refused = |result: crate::Result<()>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(cuda.add(&zeros(&[2, 3]), &zeros(&[3, 2])), "[2, 3] of F32");
    refused(cuda.add_bias(&zeros(&[2, 3]), &zeros(&[2])), "f32 [3]");
    refused(cuda.gather(&zeros(&[4, 3]), &[0, 4]).map(drop), "id Some(4) of a table of 4 rows");
    refused(cuda.cross_entropy(&zeros(&[2, 3]), &[1], 0.0).map(drop), "1 ids for 2 rows");
    let turned = zeros(&[3, 2]).t().unwrap();
    refused(cuda.add(&turned, &zeros(&[2, 3])), "contiguous");
    let narrow = zeros(&[3, 5]).narrow(1, 0, 4).unwrap();
    refused(cuda.project(&narrow, &zeros(&[2, 4])).map(drop), "strides [5, 1]");
}
