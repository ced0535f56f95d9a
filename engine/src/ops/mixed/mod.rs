//! Activations and factors of products in bf16, everything that sums in f32: what autocast does on a card.
//!
//! Products multiply bf16 and add f32, with the instruction made for it where the machine has one; weights are
//! unpacked, from whatever they are held in, into the layout the product reads. Other operations are those of
//! [`Portable`], on bf16 numbers.

mod attention;
mod kernel;
mod outer;
mod pack;
mod panels;
mod product;
mod turn;

use std::sync::Mutex;

use candle_core::{DType, Tensor};
use fleetune_shared::{Activation, SLAB_ROWS};
use half::bf16;

use self::product::{Left, Matrix, Right, Scratch, multiply};
use super::number::Number;
use super::portable::parallel::pieces;
use super::portable::{FEW, gated, norm, rope, rows};
use super::slices::{copied, edit_as, narrow, tensor, view, view_as, widen, written};
use super::{AttentionShape, Backend, DropoutMask, LowRank, Onto, Portable, Rotary, Turn};
use crate::Result;
use crate::quant::Weight;

/// The backend whose activations are bf16, on the CPU.
#[derive(Debug, Default)]
pub struct Mixed {
    scratch: Mutex<Scratch>,
}

/// Whether products of bf16 run on matrix registers here (Intel AMX), where the system lets this process use them.
#[must_use]
pub fn has_matrix_registers() -> bool {
    kernel::has_matrix_registers()
}

/// Calls a function of one or two types of numbers with those of the tensors.
macro_rules! of_dtype {
    ($tensor:expr, $N:ident => $call:expr) => {
        match $tensor.dtype() {
            DType::BF16 => {
                type $N = bf16;
                $call
            }
            _ => {
                type $N = f32;
                $call
            }
        }
    };
}

fn narrowed(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::BF16 {
        return Ok(x.contiguous()?);
    }
    let x = x.contiguous()?;
    let numbers = view(&x)?;
    let (out, ()) = written(numbers.len(), |out| pieces(out, &numbers, narrow));
    tensor::<bf16>(out, x.dims())
}

/// In bf16, its rows filled up with zeros to what multiplies fastest.
fn filled(x: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let depth = width.next_multiple_of(kernel::deep());
    let x = narrowed(x)?;
    if depth == width {
        return Ok(x);
    }
    let numbers = view_as::<bf16>(&x)?;
    let (out, ()) = written(tokens * depth, |out| {
        for (to, row) in out.chunks_exact_mut(depth).zip(numbers.chunks_exact(width)) {
            to[..width].copy_from_slice(row);
            to[width..].fill(bf16::ZERO);
        }
    });
    tensor::<bf16>(out, &[tokens, depth])
}

fn widened(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        return Ok(x.clone());
    }
    let x = x.contiguous()?;
    let numbers = view_as::<bf16>(&x)?;
    let (out, ()) = written(numbers.len(), |out| pieces(out, &numbers, widen));
    tensor::<f32>(out, x.dims())
}

/// Which way a weight is multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `x · wᵀ`.
    Forward,
    /// `dy · w`.
    Back,
}

/// A product of its own.
fn made<N: Number>(
    scratch: &mut Scratch,
    (tokens, columns): (usize, usize),
    main: (Left<'_>, Right<Matrix<'_>>),
    low: Option<(Left<'_>, &[f32])>,
) -> Result<Tensor> {
    let multiply = |out: &mut [N]| multiply(scratch, out, columns, main, low, false);
    let (out, done) = written(tokens * columns, multiply);
    done?;
    tensor(out, &[tokens, columns])
}

impl Mixed {
    fn product(
        &self,
        way: Way,
        x: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        let (tokens, depth) = x.dims2()?;
        let columns = w.dims()[if way == Way::Forward { 0 } else { 1 }];
        if tokens < FEW || depth % 2 == 1 {
            let (x, c) = (widened(x)?, low.map(|low| widened(low.c)).transpose()?);
            let low = low.zip(c.as_ref()).map(|(low, c)| LowRank { c, m: low.m });
            let y = match way {
                Way::Forward => Portable.linear(&x, w, low, Onto::F32)?,
                Way::Back => Portable.linear_dx(&x, w, low, Onto::F32)?,
            };
            return self.deliver(y, onto);
        }
        let x = narrowed(x)?;
        let x = view_as::<bf16>(&x)?;
        let left = Left { numbers: &x, depth };
        let c = low.map(|low| filled(low.c)).transpose()?;
        let c = c.as_ref().map(view_as::<bf16>).transpose()?;
        let m = low.map(|low| view(low.m)).transpose()?;
        let low = c.as_deref().zip(m.as_deref());
        let low = low.map(|(c, m)| (Left { numbers: c, depth: c.len() / tokens }, m));
        let (exact, rounded);
        let matrix = match w {
            Weight::F32(value) => {
                exact = view(value)?;
                Matrix::F32(&exact)
            }
            Weight::Packed(matrix) => match matrix.numbers().as_tensor() {
                Some(value) => {
                    rounded = view_as::<bf16>(value)?;
                    Matrix::Bf16(&rounded)
                }
                None => {
                    let numbers = matrix.numbers();
                    numbers.as_bf16().map_or(Matrix::Packed(numbers), Matrix::Bf16)
                }
            },
        };
        let right = match way {
            Way::Forward => Right::Columns(matrix),
            Way::Back => Right::Rows(matrix),
        };
        let mut scratch = self.scratch.lock().expect("no product panics");
        match onto {
            Onto::New => made::<bf16>(&mut scratch, (tokens, columns), (left, right), low),
            Onto::F32 => made::<f32>(&mut scratch, (tokens, columns), (left, right), low),
            Onto::Sum(sum) => {
                let mut done = Ok(());
                edit_as(&sum, |out: &mut [f32]| {
                    done = multiply(&mut scratch, out, columns, (left, right), low, true);
                })?;
                done.map(|()| sum)
            }
        }
    }
}

impl Mixed {
    /// `[a|b|…]ᵀ · x`, all of `[T, _]`, row after row.
    fn transposed_times(&self, few: &[&Tensor], x: &Tensor) -> Result<Vec<f32>> {
        let (tokens, columns) = x.dims2()?;
        // An odd token more is one of zeros; the packed factor is filled up alike.
        let depth = tokens.next_multiple_of(2);
        let rows = few.iter().map(|few| few.dim(1)).sum::<candle_core::Result<usize>>()?;
        let mut transposed = Vec::with_capacity(rows * depth);
        for few in few {
            let width = few.dim(1)?;
            let few = narrowed(few)?;
            let few = view_as::<bf16>(&few)?;
            let turn = |out: &mut [bf16]| pack::transposed(out, &few, (width, 0..width), depth);
            transposed.append(&mut written(width * depth, turn).0);
        }
        let x = narrowed(x)?;
        let x = view_as::<bf16>(&x)?;
        let left = Left { numbers: &transposed, depth };
        if rows <= outer::MOST_ROWS {
            return Ok(outer::outer(left, &x, columns));
        }
        let (out, done) = written(rows * columns, |out| self.times(out, left, &x, columns, false));
        done.map(|()| out)
    }

    /// `left · right`, of which rows of `columns` numbers are given.
    fn times(
        &self,
        out: &mut [f32],
        left: Left<'_>,
        right: &[bf16],
        columns: usize,
        add: bool,
    ) -> Result<()> {
        let right = Right::Rows(Matrix::Bf16(right));
        let mut scratch = self.scratch.lock().expect("no product panics");
        multiply(&mut scratch, out, columns, (left, right), None, add)
    }
}

impl Backend for Mixed {
    fn activations(&self) -> DType {
        DType::BF16
    }

    fn as_activation(&self, x: &Tensor) -> Result<Tensor> {
        narrowed(x)
    }

    fn copied(&self, x: &Tensor) -> Result<Tensor> {
        copied(x)
    }

    fn linear(
        &self,
        x: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        self.product(Way::Forward, x, w, low, onto)
    }

    fn linear_dx(
        &self,
        dy: &Tensor,
        w: &Weight,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        self.product(Way::Back, dy, w, low, onto)
    }

    /// The narrower of the two is transposed, and with it the result where it has to be.
    fn project_dw(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let ((_, outs), (_, ins)) = (dy.dims2()?, x.dims2()?);
        if outs <= ins {
            return tensor(self.transposed_times(&[dy], x)?, &[outs, ins]);
        }
        let across = tensor(self.transposed_times(&[x], dy)?, &[ins, outs])?;
        Ok(across.t()?.contiguous()?)
    }

    /// So many rows of the sum at a time that their half of `dyᵀ` is small.
    fn add_project_dw(&self, sum: &Tensor, dy: &Tensor, x: &Tensor) -> Result<()> {
        let ((tokens, outs), (_, ins)) = (dy.dims2()?, x.dims2()?);
        let depth = tokens.next_multiple_of(2);
        let (dy, x) = (narrowed(dy)?, narrowed(x)?);
        let (dy, x) = (view_as::<bf16>(&dy)?, view_as::<bf16>(&x)?);
        let mut done = Ok(());
        edit_as(sum, |sum: &mut [f32]| {
            let slabs = sum.chunks_mut(SLAB_ROWS * ins.max(1)).enumerate();
            done = slabs.map(|(slab, sum)| (slab * SLAB_ROWS, sum)).try_for_each(|(from, sum)| {
                let rows = from..(from + SLAB_ROWS).min(outs);
                let count = rows.len() * depth;
                let turn = |out: &mut [bf16]| pack::transposed(out, &dy, (outs, rows), depth);
                let (turned, ()) = written(count, turn);
                self.times(sum, Left { numbers: &turned, depth }, &x, ins, true)
            });
        })?;
        done
    }

    fn project_each(&self, x: &Tensor, ws: &[&Tensor]) -> Result<Vec<Tensor>> {
        if let [w] = ws {
            return Ok(vec![self.project(x, w)?]);
        }
        let all = self.project(x, &Tensor::cat(ws, 0)?)?;
        let (tokens, columns) = all.dims2()?;
        let all = view_as::<bf16>(&all)?;
        let mut from = 0;
        let mut cut = |w: &&Tensor| {
            let width = w.dim(0)?;
            from += width;
            let places = (0..tokens).map(|t| t * columns + from - width);
            tensor(pack::pick(&all, width, places), &[tokens, width])
        };
        ws.iter().map(&mut cut).collect()
    }

    fn project_dw_each(&self, dys: &[&Tensor], x: &Tensor) -> Result<Vec<Tensor>> {
        let ins = x.dim(1)?;
        let mut all = self.transposed_times(dys, x)?;
        let mut cut = |dy: &&Tensor| {
            let outs = dy.dim(1)?;
            let rest = all.split_off(outs * ins);
            tensor(std::mem::replace(&mut all, rest), &[outs, ins])
        };
        dys.iter().map(&mut cut).collect()
    }

    fn add_low_rank(&self, y: &Tensor, c: &Tensor, m: &Tensor) -> Result<()> {
        let c = widened(c)?;
        of_dtype!(y, N => rows::add_low_rank::<N>(y, &c, m))
    }

    fn add(&self, sum: &Tensor, term: &Tensor) -> Result<()> {
        of_dtype!(sum, N => of_dtype!(term, M => rows::add::<N, M>(sum, term)))
    }

    fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        of_dtype!(y, N => rows::add_bias::<N>(y, bias))
    }

    fn sum_rows(&self, dy: &Tensor) -> Result<Tensor> {
        of_dtype!(dy, N => rows::sum::<N>(dy))
    }

    fn scale(&self, y: &Tensor, factor: &Tensor) -> Result<()> {
        of_dtype!(y, N => rows::scale::<N>(y, factor))
    }

    fn dot_rows(&self, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
        of_dtype!(dy, N => of_dtype!(y, M => rows::dot_rows::<N, M>(dy, y)))
    }

    fn dropout(&self, x: &Tensor, mask: &DropoutMask) -> Result<Tensor> {
        of_dtype!(x, N => rows::dropout::<N>(x, mask))
    }

    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        Portable.gather(table, ids)
    }

    fn scatter_add(&self, dtable: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
        Portable.scatter_add(dtable, ids, dy)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        of_dtype!(x, N => norm::forward::<N, bf16>(x, weight, eps))
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        rstd: &Tensor,
        dx: &Tensor,
        dweight: bool,
    ) -> Result<Option<Tensor>> {
        of_dtype!(dy, Y => of_dtype!(x, X => {
            of_dtype!(dx, D => norm::backward::<Y, X, D>(dy, x, weight, rstd, dx))?;
            dweight.then(|| norm::backward_weight::<Y, X>(dy, x, rstd)).transpose()
        }))
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
        rope::rotate::<bf16>(x, rotary, turn)
    }

    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gated::forward::<bf16>(activation, gate, up)
    }

    fn gated_backward(
        &self,
        activation: Activation,
        gate: &Tensor,
        up: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        gated::backward::<bf16>(activation, gate, up, dy)
    }

    fn soft_cap(&self, x: &Tensor, cap: f64) -> Result<()> {
        Portable.soft_cap(x, cap)
    }

    fn soft_cap_backward(&self, dy: &Tensor, y: &Tensor, cap: f64) -> Result<()> {
        Portable.soft_cap_backward(dy, y, cap)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor)> {
        attention::forward(q, k, v, shape)
    }

    fn attention_backward(
        &self,
        dout: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        shape: &AttentionShape<'_>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        attention::backward(dout, (q, k, v), out, lse, shape)
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &[u32], smoothing: f64) -> Result<f64> {
        Portable.cross_entropy(logits, targets, smoothing)
    }

    fn cross_entropy_backward(
        &self,
        logits: &Tensor,
        targets: &[u32],
        smoothing: f64,
        scale: f64,
    ) -> Result<f64> {
        Portable.cross_entropy_backward(logits, targets, smoothing, scale)
    }

    fn log_probs(&self, logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
        Portable.log_probs(logits, targets)
    }

    fn log_probs_backward(&self, logits: &Tensor, targets: &[u32], dlogps: &[f64]) -> Result<()> {
        Portable.log_probs_backward(logits, targets, dlogps)
    }

    fn log_collisions(&self, logits: &Tensor) -> Result<Vec<f64>> {
        Portable.log_collisions(logits)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Device;

    use super::*;
    use crate::quant::{Bf16, FourBit, FourBitKind, Packed, PackedMatrix};

    fn waves(rows: usize, width: usize, phase: f32) -> Tensor {
        let wave = |i: usize| ((i * i % 1013) as f32 * 0.01 + i as f32 * 0.7 + phase).sin();
        let numbers: Vec<f32> = (0..rows * width).map(|i| bf16::narrow(wave(i)).widen()).collect();
        Tensor::from_vec(numbers, (rows, width), &Device::Cpu).unwrap()
    }

    /// The largest difference, of the largest number.
    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        let (a, b) = (widened(a).unwrap(), widened(b).unwrap());
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (view(&a).unwrap(), view(&b).unwrap());
        let most = crate::quant::absmax(&b);
        a.iter().zip(b.iter()).fold(0.0, |max, (a, b)| f32::max(max, (a - b).abs())) / most
    }

    fn weights(rows: usize, width: usize) -> Vec<Weight> {
        let value = waves(rows, width, 0.2);
        let numbers = view(&value).unwrap();
        let packed: [Arc<dyn Packed>; 2] = [
            Arc::new(Bf16::encode(&numbers)),
            Arc::new(FourBit::encode(&numbers, FourBitKind::Nf4, true)),
        ];
        let packed = packed.map(|p| Weight::Packed(PackedMatrix::new(p, width)));
        [Weight::F32(value.clone())].into_iter().chain(packed).collect()
    }

    #[test]
    fn products_are_those_of_the_portable_twin_on_rounded_factors() {
        let ops = Mixed::default();
        for (tokens, outs, ins, rank) in
            [(70, 100, 64, 6), (5, 50, 130, 4), (131, 18, 34, 2), (140, 500, 96, 5)]
        {
            let (x, dy) = (waves(tokens, ins, 0.5), waves(tokens, outs, 0.9));
            let (low, dlow) = (waves(tokens, rank, 0.1), waves(tokens, rank, 0.3));
            let (b, a) = (waves(rank, outs, 0.4), waves(rank, ins, 0.6));
            for weight in weights(outs, ins) {
                let rounded = weight.to_f32().unwrap();
                let rounded = Weight::F32(widened(&narrowed(&rounded).unwrap()).unwrap());
                let forth = Some(LowRank { c: &low, m: &b });
                let back = Some(LowRank { c: &dlow, m: &a });
                for (found, expected) in [
                    (
                        ops.linear(&x, &weight, forth, Onto::F32),
                        Portable.linear(&x, &rounded, forth, Onto::F32),
                    ),
                    (
                        ops.linear_dx(&dy, &weight, back, Onto::F32),
                        Portable.linear_dx(&dy, &rounded, back, Onto::F32),
                    ),
                ] {
                    let far = apart(&found.unwrap(), &expected.unwrap());
                    assert!(far < 2e-6, "{tokens} {outs} {ins}: {far}");
                }
                let sum = waves(tokens, ins, 2.0);
                let product = Portable.linear_dx(&dy, &rounded, None, Onto::F32).unwrap();
                let expected = &sum + product;
                let found = ops.linear_dx(&dy, &weight, None, Onto::Sum(sum)).unwrap();
                assert!(apart(&found, &expected.unwrap()) < 2e-6);
                let found = ops.linear(&x, &weight, None, Onto::New).unwrap();
                assert_eq!(found.dtype(), DType::BF16);
                let expected = Portable.linear(&x, &rounded, None, Onto::F32).unwrap();
                assert!(apart(&found, &expected) < 4e-3);
            }
            let found = ops.project_dw(&dy, &x).unwrap();
            assert!(apart(&found, &Portable.project_dw(&dy, &x).unwrap()) < 2e-6);
            let sum = waves(outs, ins, 2.0);
            let expected = (&sum + Portable.project_dw(&dy, &x).unwrap()).unwrap();
            ops.add_project_dw(&sum, &dy, &x).unwrap();
            assert!(apart(&sum, &expected) < 2e-6);
            // Some columns of what the head gives.
            let part = narrowed(&dy).unwrap().narrow(1, 1, outs - 3).unwrap();
            let found = ops.project_dw(&part, &x).unwrap();
            let expected = Portable.project_dw(&widened(&part).unwrap(), &x).unwrap();
            assert!(apart(&found, &expected) < 2e-6);
        }
    }
}
