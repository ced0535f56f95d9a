//! The codecs against bitsandbytes' codes, constants and numbers (`tests/fixtures/make_quant.py`).

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

use super::mean::mean;
use super::*;

fn fixtures() -> HashMap<String, Tensor> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../tests/fixtures/quant/bitsandbytes.safetensors"]
            .iter()
            .collect();
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn u8s(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn all(held: &dyn Packed) -> Vec<f32> {
    let mut out = vec![0.0; held.count()];
    held.unpack(0, &mut out).unwrap();
    out
}

/// Every setting of `quantize_4bit` on record: its key, kind and dtype, and whether it quantised its constants.
fn settings(fixtures: &HashMap<String, Tensor>) -> Vec<(String, FourBitKind, DType, bool)> {
    let mut keys: Vec<_> = fixtures.keys().filter_map(|key| key.strip_suffix(".packed")).collect();
    keys.sort_unstable();
    let setting = |key: &str| {
        let kind = if key.contains(".nf4.") { FourBitKind::Nf4 } else { FourBitKind::Fp4 };
        let dtype = if key.ends_with("bfloat16") { DType::BF16 } else { DType::F32 };
        (key.to_owned(), kind, dtype, key.contains(".dq."))
    };
    keys.into_iter().map(setting).collect()
}

#[test]
fn the_books_are_bitsandbytes() {
    let fixtures = fixtures();
    assert_eq!(f32s(&fixtures["codebook.nf4"]), nf4().values());
    assert_eq!(f32s(&fixtures["codebook.fp4"]), fp4().values());
    assert_eq!(f32s(&fixtures["codebook.dynamic8"]), dynamic8().values());
}

#[test]
fn four_bit_codes_constants_and_numbers_are_bitsandbytes() {
    let fixtures = fixtures();
    let settings = settings(&fixtures);
    assert_eq!(settings.len(), 30);
    for (key, kind, dtype, double) in settings {
        let name = key.split('.').next().unwrap();
        let input = fixtures[&format!("{name}.input")].to_dtype(dtype).unwrap();
        let held = FourBit::encode(&f32s(&input), kind, double);
        assert_eq!(held.codes(), u8s(&fixtures[&format!("{key}.packed")]), "{key}");
        match held.absmax() {
            Absmax::Plain(absmax) => {
                assert_eq!(*absmax, f32s(&fixtures[&format!("{key}.absmax")]), "{key}");
            }
            Absmax::Double { rest, offset } => {
                assert_eq!(f32s(&fixtures[&format!("{key}.offset")]), [*offset], "{key}");
                assert_eq!(rest.codes(), u8s(&fixtures[&format!("{key}.absmax")]), "{key}");
                let expected = f32s(&fixtures[&format!("{key}.state2_absmax")]);
                assert_eq!(rest.absmax(), expected, "{key}");
            }
        }
        if let Some(expected) = fixtures.get(&format!("{key}.dequant")) {
            let found = Tensor::new(all(&held), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            assert_eq!(f32s(&found), f32s(expected), "{key}");
        }
    }
}

#[test]
fn thousands_of_block_constants_are_quantised_as_bitsandbytes_does() {
    let fixtures = fixtures();
    for dtype in ["float32", "bfloat16"] {
        let of = |which: &str| &fixtures[&format!("smollm2_l5_down_proj.nf4.{which}")];
        let plain = f32s(of(&format!("sq.{dtype}.absmax")));
        assert!(plain.len() > 10_000);
        let Absmax::Double { rest, offset } = Absmax::double(&plain) else { unreachable!() };
        assert_eq!(f32s(of(&format!("dq.{dtype}.offset"))), [offset]);
        assert_eq!(rest.codes(), u8s(of(&format!("dq.{dtype}.absmax"))));
        assert_eq!(rest.absmax(), f32s(of(&format!("dq.{dtype}.state2_absmax"))));
    }
}

#[test]
fn blocks_of_eight_bits_are_bitsandbytes() {
    let fixtures = fixtures();
    let held = Blockwise8::encode(&f32s(&fixtures["randn_64x128.input"]), 256);
    assert_eq!(held.codes(), u8s(&fixtures["blockwise8.randn_64x128.codes"]));
    assert_eq!(held.absmax(), f32s(&fixtures["blockwise8.randn_64x128.absmax"]));
    assert_eq!(all(&held), f32s(&fixtures["blockwise8.randn_64x128.dequant"]));
}

#[test]
fn the_mean_is_near_the_mean() {
    // Sizes around each border of the cascade.
    for count in [1_u64, 7, 31, 32, 33, 511, 512, 4097, 300_000] {
        let values: Vec<f32> = (0..count).map(|i| (i * 7919 % 1013) as f32 / 1013.0).collect();
        let exact = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
        let found = f64::from(mean(&values));
        assert!((found - exact).abs() < 1e-6, "{count}: {found} {exact}");
    }
}

#[test]
fn a_stretch_is_a_part_of_the_whole() {
    let values: Vec<f32> = (0..1001).map(|i| (i as f32 * 0.37).sin() * (i % 13) as f32).collect();
    let four = FourBit::encode(&values, FourBitKind::Nf4, true);
    let packed: [&dyn Packed; 3] =
        [&four, &Blockwise8::encode(&values, 256), &Bf16::encode(&values)];
    for held in packed {
        let whole = all(held);
        for (from, length) in [(0, 0), (0, 63), (1, 64), (63, 65), (7, 994), (1000, 1)] {
            let mut out = vec![0.0; length];
            held.unpack(from, &mut out).unwrap();
            assert_eq!(out, whole[from..from + length], "{held:?} {from}");
        }
        assert!(held.unpack(1000, &mut [0.0; 2]).is_err());
        assert!(held.unpack(usize::MAX, &mut [0.0; 2]).is_err());
    }
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let plain = |n| Absmax::Plain(vec![1.0; n]);
    let of = |block, bytes, absmax| {
        FourBit::of_parts(FourBitKind::Nf4, block, 128, vec![0; bytes], absmax)
    };
    assert!(of(64, 64, plain(2)).is_ok());
    assert!(of(64, 63, plain(2)).is_err());
    assert!(of(64, 64, plain(3)).is_err());
    assert!(of(0, 64, plain(2)).is_err());
    assert!(of(3, 64, plain(43)).is_err());
    assert!(Blockwise8::of_parts(vec![0; 3], vec![], 256).is_err());
    assert!(Int8::of_parts(vec![0; 4], vec![1.0; 3], 2).is_err());
}
