//! AdamW on a card, by `kernels/adamw.cu`: what [`super::Optimizer`] does on the CPU, to the bit.

use candle_core::Tensor;
use fleetune_shared::recipe;

use super::Step;
use super::adamw::AdamW;
use super::codes::CodeMap;
use super::values::BLOCK;
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
    values: &Tensor,
    grads: &Tensor,
    [m, v]: [&[Tensor]; 2],
) -> Result<()> {
    let count = values.elem_count();
    wants(values, values.dims())?;
    wants(grads, values.dims())?;
    let tables;
    let mut args = vec![Arg::Out(values), Arg::In(grads)];
    let kernel = match (m, v) {
        ([m], [v]) => {
            for moment in [m, v] {
                wants(moment, &[count])?;
                args.push(Arg::Out(moment));
            }
            "adamw"
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
            "adamw8"
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

    use super::super::elementwise::update;
    use super::super::moment::{Form, Moment};
    use super::super::moments::Moments;
    use super::super::rounding::Rounding;
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

    /// Runs five steps on the CPU with moments of `forms`, and `on_card` beside each.
    fn steps(
        forms: [Form; 2],
        on_card: impl Fn(&Step, &Tensor, &Tensor),
    ) -> (Vec<Moment>, Vec<f32>, Tensor) {
        let mut values = wave(0.0);
        let theirs = tensor(values.clone());
        let mut moments: Vec<Moment> = forms.iter().map(|form| form.zeros(COUNT)).collect();
        for number in 1..=5 {
            // Gradients of many sizes, some of them nothing.
            let grads: Vec<f32> = wave(number as f32)
                .iter()
                .map(|g| if *g > 0.9 { 0.0 } else { g * g * g })
                .collect();
            let step = Step { number, learning_rate: 1e-2, weight_decay: 0.01, grad_factor: 0.7 };
            let rule = AdamW::new(settings(), &step);
            let rounding = Rounding::new(0, number, "values");
            update(rule, Values::F32(&mut values), &grads, &mut moments, rounding);
            on_card(&step, &theirs, &tensor(grads));
        }
        (moments, values, theirs)
    }

    /// As many steps on a card, with moments of `forms` there; both must end with the same bits.
    fn same(forms: [Form; 2]) {
        let Some(cuda) = host() else { return };
        let state = Moments::on_card(COUNT, forms.to_vec(), &Device::Cpu).unwrap();
        let arrays = state.arrays_on_card().unwrap();
        let (moments, values, theirs) = steps(forms, |step, values, grads| {
            cuda.adamw(settings(), step, values, grads, arrays).unwrap();
        });
        assert_eq!(theirs.to_vec1::<f32>().unwrap(), values);
        for (moment, theirs) in moments.iter().zip(arrays) {
            match moment {
                Moment::Full(numbers) => assert_eq!(theirs[0].to_vec1::<f32>().unwrap(), *numbers),
                Moment::Blockwise { codes, absmax, .. } => {
                    assert_eq!(theirs[0].to_vec1::<u8>().unwrap(), *codes);
                    assert_eq!(theirs[1].to_vec1::<f32>().unwrap(), *absmax);
                }
                Moment::Bf16(_) => unreachable!(),
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
        let step = Step { number: 1, learning_rate: 1e-2, weight_decay: 0.0, grad_factor: 1.0 };
        let forms = vec![Form::Blockwise(CodeMap::signed()); 2];
        let values = tensor(wave(0.0));
        let state = Moments::on_card(COUNT + BLOCK, forms, &Device::Cpu).unwrap();
        let arrays = state.arrays_on_card().unwrap();
        let grads = values.copy().unwrap();
        assert!(cuda.adamw(settings(), &step, &values, &grads, arrays).is_err());
        assert!(
            cuda.adamw(settings(), &step, &values, &grads, [arrays[0], &arrays[1][1..]]).is_err()
        );
    }
}
