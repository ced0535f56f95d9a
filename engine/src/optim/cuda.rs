//! AdamW on a card, by `kernels/adamw.cu`: what [`super::Optimizer`] does on the CPU, to the bit.

use candle_core::{DType, Tensor};
use fleetune_shared::recipe;

use super::adamw::AdamW;
use super::codes::CodeMap;
use super::values::BLOCK;
use super::{Rounding, Step};
use crate::Result;
use crate::ops::Cuda;
use crate::ops::cuda::launch::{Arg, Card, THREADS, blocks, refuse_unless, wants};

// A block of threads is a block of moments.
const _: () = assert!(BLOCK == THREADS);

/// A map of codes on a card.
#[derive(Debug)]
pub(crate) struct CodeTables {
    book: Tensor,
    grid: Tensor,
}

impl CodeTables {
    fn carry(card: &dyn Card, map: &CodeMap) -> Result<Self> {
        let book = [&map.book.values()[..], &map.book.middles].concat();
        Ok(Self { book: card.upload(&book)?, grid: card.upload(&map.grid[..])? })
    }
}

fn numbers(rule: &AdamW) -> [Arg<'static>; 8] {
    let AdamW { grad_factor, decay, lerp, beta2, square, correction, epsilon, size } = *rule;
    [grad_factor, decay, lerp, beta2, square, correction, epsilon, size].map(Arg::F32)
}

/// [`crate::ops::Backend::adamw`].
pub(crate) fn adamw(
    cuda: &Cuda,
    settings: recipe::AdamW,
    step: &Step,
    rounding: Rounding,
    values: &Tensor,
    grads: &Tensor,
    [m, v]: [&[Tensor]; 2],
) -> Result<()> {
    let count = values.elem_count();
    let halved = values.dtype() == DType::BF16 && values.is_contiguous();
    let mut args = vec![Arg::Out(values)];
    if halved {
        args.extend(rounding.key().map(Arg::U32));
    } else {
        wants(values, values.dims())?;
    }
    wants(grads, values.dims())?;
    args.push(Arg::In(grads));
    let tables;
    let kernel = match (m, v) {
        ([m], [v]) => {
            for moment in [m, v] {
                wants(moment, &[count])?;
                args.push(Arg::Out(moment));
            }
            if halved { "adamw_bf16" } else { "adamw" }
        }
        ([m_codes, m_absmax], [v_codes, v_absmax]) => {
            tables = code_tables(cuda)?;
            for (codes, absmax) in [(m_codes, m_absmax), (v_codes, v_absmax)] {
                refuse_unless(codes.dims() == [count], || {
                    format!("{:?} codes for {count} numbers", codes.dims())
                })?;
                wants(absmax, &[count.div_ceil(BLOCK)])?;
                args.extend([Arg::Out(codes), Arg::Out(absmax)]);
            }
            for CodeTables { book, grid } in tables {
                args.extend([Arg::In(book), Arg::In(grid)]);
            }
            if halved { "adamw8_bf16" } else { "adamw8" }
        }
        _ => return refuse_unless(false, || "moments of two forms in one step".into()),
    };
    args.push(Arg::U64(count as u64));
    args.extend(numbers(&AdamW::new(settings, step)));
    cuda.card().launch(kernel, blocks(count), &args)
}

/// Of the first and of the second moment, carried to the card once.
fn code_tables(cuda: &Cuda) -> Result<&[CodeTables; 2]> {
    if let Some(tables) = cuda.code_tables.get() {
        return Ok(tables);
    }
    let carry = |map| CodeTables::carry(cuda.card(), map);
    let tables = [carry(CodeMap::signed())?, carry(CodeMap::unsigned())?];
    Ok(cuda.code_tables.get_or_init(|| tables))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use half::bf16;

    use super::super::elementwise::update;
    use super::super::moment::{Form, Moment};
    use super::super::moments::Moments;
    use super::super::values::Values;
    use super::*;
    use crate::ops::Backend;
    use crate::ops::cuda::tests::host;

    /// Three blocks of moments and a bit.
    const COUNT: usize = 3 * BLOCK + 77;

    fn wave(phase: f32) -> Vec<f32> {
        (0..COUNT).map(|i| ((i * i) as f32 * 0.013 + phase).sin()).collect()
    }

    fn tensor(numbers: Vec<f32>) -> Tensor {
        Tensor::from_vec(numbers, COUNT, &Device::Cpu).unwrap()
    }

    fn settings() -> recipe::AdamW {
        recipe::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }

    fn step(number: u64) -> Step {
        Step { number, learning_rate: 1e-2, weight_decay: 0.01, grad_factor: 0.7 }
    }

    /// Five steps of values in f32 and of values in bf16, here and on a card, with moments of `forms`: both end with the
    /// same bits.
    fn same(forms: [Form; 2]) {
        let Some(cuda) = host() else { return };
        let mut whole = wave(0.0);
        let mut halved: Vec<bf16> = wave(1.0).into_iter().map(bf16::from_f32).collect();
        let on_card =
            [tensor(whole.clone()), Tensor::from_vec(halved.clone(), COUNT, &Device::Cpu).unwrap()];
        let here = || forms.map(|form| form.zeros(COUNT)).to_vec();
        let there = || Moments::on_card(COUNT, forms.to_vec(), &Device::Cpu).unwrap();
        let (mut moments, states) = ([here(), here()], [there(), there()]);
        for number in 1..=5 {
            let (step, rounding) = (step(number), Rounding::new(7, number, "values"));
            // Gradients of many sizes, some of them nothing.
            let cubes = wave(number as f32).into_iter();
            let grads: Vec<f32> = cubes.map(|g| if g > 0.9 { 0.0 } else { g * g * g }).collect();
            let rule = AdamW::new(settings(), &step);
            let both = [Values::F32(&mut whole), Values::Bf16(&mut halved, rounding)];
            for (values, moments) in both.into_iter().zip(&mut moments) {
                update(rule, values, &grads, moments, rounding);
            }
            for (values, state) in on_card.iter().zip(&states) {
                let arrays = state.arrays_on_card().unwrap();
                let grads = tensor(grads.clone());
                cuda.adamw(settings(), &step, rounding, values, &grads, arrays).unwrap();
            }
        }
        assert_eq!(on_card[0].to_vec1::<f32>().unwrap(), whole);
        assert_eq!(on_card[1].to_vec1::<bf16>().unwrap(), halved);
        for (moments, state) in moments.iter().zip(&states) {
            for (moment, arrays) in moments.iter().zip(state.arrays_on_card().unwrap()) {
                let floats = |array: &Tensor| array.to_vec1::<f32>().unwrap();
                match moment {
                    Moment::Full(numbers) => assert_eq!(floats(&arrays[0]), *numbers),
                    Moment::Blockwise { codes, absmax, .. } => {
                        assert_eq!(arrays[0].to_vec1::<u8>().unwrap(), *codes);
                        assert_eq!(floats(&arrays[1]), *absmax);
                    }
                    Moment::Bf16(_) => unreachable!(),
                }
            }
        }
    }

    #[test]
    fn adamw_on_a_card_is_adamw_to_the_bit() {
        same([Form::Full, Form::Full]);
    }

    #[test]
    fn codes_on_a_card_are_those_of_the_cpu() {
        same([Form::Blockwise(CodeMap::signed()), Form::Blockwise(CodeMap::unsigned())]);
    }

    #[test]
    fn other_shapes_are_refused() {
        let Some(cuda) = host() else { return };
        let values = tensor(wave(0.0));
        let grads = values.copy().unwrap();
        let forms = vec![Form::Blockwise(CodeMap::signed()); 2];
        let state = Moments::on_card(COUNT + BLOCK, forms, &Device::Cpu).unwrap();
        let [m, v] = state.arrays_on_card().unwrap();
        let rounding = Rounding::new(7, 1, "values");
        for moments in [[m, v], [m, &v[1..]]] {
            let stepped = cuda.adamw(settings(), &step(1), rounding, &values, &grads, moments);
            assert!(stepped.is_err());
        }
    }
}
