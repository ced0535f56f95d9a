//! AdamW on a card, by `kernels/adamw.cu`: what [`super::Optimizer`] does on the CPU, to the bit.

use candle_core::{DType, Tensor};
use fleetune_shared::recipe;

use super::Step;
use super::adamw::AdamW;
use super::codes::CodeMap;
use super::values::BLOCK;
use crate::Result;
use crate::ops::Cuda;
use crate::ops::cuda::launch::{Arg, THREADS, blocks, wants};

// A block of threads is a block of moments.
const _: () = assert!(BLOCK == THREADS);

/// Both moments of a tensor in f32, on a card.
#[derive(Debug)]
pub struct Adam {
    m: Tensor,
    v: Tensor,
}

/// Both moments of a tensor as codes, on a card.
#[derive(Debug)]
pub struct Adam8 {
    m: Coded,
    v: Coded,
}

#[derive(Debug)]
struct Coded {
    codes: Tensor,
    absmax: Tensor,
    book: Tensor,
    grid: Tensor,
}

impl Coded {
    fn zeros(cuda: &Cuda, map: &CodeMap, count: usize) -> Result<Self> {
        let card = cuda.card();
        let book = [&map.book.values()[..], &map.book.middles].concat();
        Ok(Self {
            codes: card.zeros(&[count], DType::U8)?,
            absmax: card.zeros(&[count.div_ceil(BLOCK)], DType::F32)?,
            book: card.upload(&book)?,
            grid: card.upload(&map.grid[..])?,
        })
    }
}

fn numbers(rule: &AdamW) -> [Arg<'static>; 8] {
    let AdamW { grad_factor, decay, lerp, beta2, square, correction, epsilon, size } = *rule;
    [grad_factor, decay, lerp, beta2, square, correction, epsilon, size].map(Arg::F32)
}

impl Cuda {
    /// Moments of `count` numbers before the first step.
    ///
    /// # Errors
    /// When the device fails.
    pub fn adam(&self, count: usize) -> Result<Adam> {
        let zeros = || self.card().zeros(&[count], DType::F32);
        Ok(Adam { m: zeros()?, v: zeros()? })
    }

    /// As [`Self::adam`], in 8 bits.
    ///
    /// # Errors
    /// When the device fails.
    pub fn adam8(&self, count: usize) -> Result<Adam8> {
        let m = Coded::zeros(self, CodeMap::signed(), count)?;
        Ok(Adam8 { m, v: Coded::zeros(self, CodeMap::unsigned(), count)? })
    }

    /// One step of AdamW on `values` in place, f32 of any shape, and on their moments.
    ///
    /// # Errors
    /// When shapes differ or the device fails.
    pub fn adamw(
        &self,
        settings: recipe::AdamW,
        step: &Step,
        values: &Tensor,
        grads: &Tensor,
        moments: &Adam,
    ) -> Result<()> {
        let count = values.elem_count();
        wants(values, values.dims())?;
        wants(grads, values.dims())?;
        wants(&moments.m, &[count])?;
        let Adam { m, v } = moments;
        let mut args = vec![
            Arg::Out(values),
            Arg::In(grads),
            Arg::Out(m),
            Arg::Out(v),
            Arg::U64(count as u64),
        ];
        args.extend(numbers(&AdamW::new(settings, step)));
        self.card().launch("adamw", blocks(count), &args)
    }

    /// As [`Self::adamw`], with moments in 8 bits.
    ///
    /// # Errors
    /// When shapes differ or the device fails.
    pub fn adamw8(
        &self,
        settings: recipe::AdamW,
        step: &Step,
        values: &Tensor,
        grads: &Tensor,
        moments: &Adam8,
    ) -> Result<()> {
        let count = values.elem_count();
        wants(values, values.dims())?;
        wants(grads, values.dims())?;
        let Adam8 { m, v } = moments;
        wants(&m.absmax, &[count.div_ceil(BLOCK)])?;
        let mut args = vec![
            Arg::Out(values),
            Arg::In(grads),
            Arg::Out(&m.codes),
            Arg::Out(&m.absmax),
            Arg::Out(&v.codes),
            Arg::Out(&v.absmax),
            Arg::In(&m.book),
            Arg::In(&m.grid),
            Arg::In(&v.book),
            Arg::In(&v.grid),
            Arg::U64(count as u64),
        ];
        args.extend(numbers(&AdamW::new(settings, step)));
        self.card().launch("adamw8", blocks(count), &args)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::elementwise::update;
    use super::super::moment::{Form, Moment};
    use super::super::rounding::Rounding;
    use super::super::values::Values;
    use super::*;
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

    #[test]
    fn adamw_on_a_card_is_adamw_to_the_bit() {
        let Some(cuda) = host() else { return };
        let state = cuda.adam(COUNT).unwrap();
        let (moments, values, theirs) = steps([Form::Full, Form::Full], |step, values, grads| {
            cuda.adamw(settings(), step, values, grads, &state).unwrap();
        });
        assert_eq!(theirs.to_vec1::<f32>().unwrap(), values);
        for (moment, theirs) in moments.iter().zip([&state.m, &state.v]) {
            let Moment::Full(numbers) = moment else { unreachable!() };
            assert_eq!(theirs.to_vec1::<f32>().unwrap(), *numbers);
        }
    }

    #[test]
    fn codes_on_a_card_are_those_of_the_cpu() {
        let Some(cuda) = host() else { return };
        let state = cuda.adam8(COUNT).unwrap();
        let forms = [Form::Blockwise(CodeMap::signed()), Form::Blockwise(CodeMap::unsigned())];
        let (moments, values, theirs) = steps(forms, |step, values, grads| {
            cuda.adamw8(settings(), step, values, grads, &state).unwrap();
        });
        assert_eq!(theirs.to_vec1::<f32>().unwrap(), values);
        for (moment, theirs) in moments.iter().zip([&state.m, &state.v]) {
            let Moment::Blockwise { codes, absmax, .. } = moment else { unreachable!() };
            assert_eq!(theirs.codes.to_vec1::<u8>().unwrap(), *codes);
            assert_eq!(theirs.absmax.to_vec1::<f32>().unwrap(), *absmax);
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        let Some(cuda) = host() else { return };
        let step = Step { number: 1, learning_rate: 1e-2, weight_decay: 0.0, grad_factor: 1.0 };
        let (values, state) = (tensor(wave(0.0)), cuda.adam8(COUNT + BLOCK).unwrap());
        assert!(cuda.adamw8(settings(), &step, &values, &values.copy().unwrap(), &state).is_err());
    }
}
